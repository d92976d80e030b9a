// Stand-ins for what the sketch of examples/esp32 uses, on a computer: samples come from standard
// input, messages go to standard output, each preceded by its length (32 bits, little-endian).
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

struct String {
  std::string text;
  String(const char *content) : text(content) {}
  String(uint32_t number) : text(std::to_string(number)) {}
  const char *c_str() const { return text.c_str(); }
};
inline String operator+(const String &a, const String &b) { return String((a.text + b.text).c_str()); }
