#pragma once
#include "host.h"
enum wifi_mode_t { WIFI_STA };
struct {
  bool mode(wifi_mode_t) { return true; }
  bool setSleep(bool) { return true; }
  bool setAutoReconnect(bool) { return true; }
  int begin(const char *, const char *) { return 0; }
} WiFi;
