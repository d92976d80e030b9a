#pragma once
#include "host.h"
enum i2s_mode_t { I2S_MODE_STD };
enum i2s_data_bit_width_t { I2S_DATA_BIT_WIDTH_32BIT = 32 };
enum i2s_slot_mode_t { I2S_SLOT_MODE_MONO };
const int8_t I2S_STD_SLOT_LEFT = 1;
struct I2SClass {
  void setPins(int8_t, int8_t, int8_t, int8_t = -1, int8_t = -1) {}
  bool begin(i2s_mode_t, uint32_t, i2s_data_bit_width_t, i2s_slot_mode_t, int8_t = -1) { return true; }
  size_t readBytes(char *buffer, size_t size) {  // in parts, as a driver may give them
    size_t got = fread(buffer, 1, size > 1000 ? 1000 : size, stdin);
    if (got == 0) exit(0);
    return got;
  }
};
