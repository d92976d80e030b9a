#pragma once
#include "host.h"
enum WStype_t { WStype_DISCONNECTED, WStype_CONNECTED, WStype_TEXT, WStype_BIN };
typedef void (*WebSocketClientEvent)(WStype_t, uint8_t *, size_t);
struct WebSocketsClient {
  WebSocketClientEvent event = nullptr;
  int turns = 0;
  void setExtraHeaders(const char *) {}
  void begin(const char *, uint16_t, const char *path) { fprintf(stderr, "%s\n", path); }
  void onEvent(WebSocketClientEvent handler) { event = handler; }
  void setReconnectInterval(unsigned long) {}
  void loop() {  // connected from the third turn on, but for the turns 10 to 19
    turns++;
    if (turns == 3 || turns == 20) event(WStype_CONNECTED, nullptr, 0);
    if (turns == 10) event(WStype_DISCONNECTED, nullptr, 0);
  }
  bool sendBIN(const uint8_t *content, size_t size) {
    uint32_t length = size;
    fwrite(&length, 4, 1, stdout);
    return fwrite(content, 1, size, stdout) == size;
  }
};
