// An ESP32 with an I2S microphone (INMP441, SPH0645, ICS-43434) as a source of the pipeline:
//
//   source = "listen:ws://0.0.0.0:8770/kitchen"        (docs/SOURCES.md)
//
// Arduino-ESP32 core 3.x, library "WebSockets" by Markus Sattler (2.4 or newer). The tests compile and run
// it on a computer, with stand-ins for both (tests/data/arduino); it has not been run on a device.
//
// Wiring: SCK to 26, WS to 25, SD to 33, L/R to GND (left), VDD to 3.3 V.

#include <ESP_I2S.h>
#include <WebSocketsClient.h>
#include <WiFi.h>

const char *WIFI_NAME = "your network";
const char *WIFI_PASSWORD = "your password";
const char *BOX = "192.168.1.10";
const uint16_t PORT = 8770;
const char *NAME = "kitchen";
const char *TOKEN = "";  // listen.token of the box; "" where it has none

const int PIN_SCK = 26, PIN_WS = 25, PIN_SD = 33;
const uint32_t RATE = 16000;
const size_t FRAMES = 320;  // 20 ms per message
const int GAIN_BITS = 2;    // these microphones are soft: 12 dB louder

I2SClass microphone;
WebSocketsClient box;
bool connected = false;
uint64_t first = 0;  // number of the first frame of the next message
int32_t samples[FRAMES];
uint8_t message[8 + 2 * FRAMES];

void onEvent(WStype_t type, uint8_t *, size_t) {
  if (type == WStype_CONNECTED) connected = true;
  if (type == WStype_DISCONNECTED) connected = false;
}

void setup() {
  WiFi.mode(WIFI_STA);
  WiFi.setSleep(false);  // a radio that sleeps delays the sound by up to 300 ms
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  WiFi.setAutoReconnect(true);

  microphone.setPins(PIN_SCK, PIN_WS, -1, PIN_SD);
  microphone.begin(I2S_MODE_STD, RATE, I2S_DATA_BIT_WIDTH_32BIT, I2S_SLOT_MODE_MONO, I2S_STD_SLOT_LEFT);

  static String path = String("/") + NAME + "?rate=" + String(RATE) + "&channels=1&stamps=1";
  static String login = String("Authorization: Bearer ") + TOKEN;
  if (*TOKEN) box.setExtraHeaders(login.c_str());
  box.begin(BOX, PORT, path.c_str());
  box.onEvent(onEvent);
  box.setReconnectInterval(1000);
}

void loop() {
  box.loop();  // connects, and connects again
  size_t filled = 0;
  while (filled < sizeof(samples)) {
    size_t got = microphone.readBytes((char *)samples + filled, sizeof(samples) - filled);
    if (got == 0) return;  // the microphone gives nothing: the pipeline reports a lost source
    filled += got;
  }
  // The number of the first frame goes on while nothing is sent, so that the pipeline declares exactly
  // what is missing.
  for (int n = 0; n < 8; n++) message[n] = first >> (8 * n);
  for (size_t n = 0; n < FRAMES; n++) {
    int32_t value = samples[n] >> (16 - GAIN_BITS);  // 24 bits, in the upper part of 32
    value = value > 32767 ? 32767 : value < -32768 ? -32768 : value;
    message[8 + 2 * n] = value;
    message[9 + 2 * n] = value >> 8;
  }
  first += FRAMES;
  if (connected) box.sendBIN(message, sizeof(message));
}
