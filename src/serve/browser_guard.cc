#include "serve/browser_guard.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <array>
#include <string>

#include "formats/json.h"
#include "serve/api_error.h"

namespace sluice {
namespace {

/// Headers of other sizes are no names.
constexpr size_t kMostHostBytes = 300;

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

/// "localhost:8080" -> "localhost", "[::1]:8080" -> "::1"
std::string without_port(const std::string& host) {
  if (!host.starts_with('[')) return host.substr(0, host.find(':'));
  const size_t end = host.find(']');
  return end == host.npos ? "" : host.substr(1, end - 1);
}

bool is_address(const std::string& text) {
  std::array<unsigned char, sizeof(in6_addr)> bytes;
  return inet_pton(AF_INET, text.c_str(), bytes.data()) == 1 || inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1;
}

ApiError forbidden(const std::string& message, const char* code) {
  return {403, "permission_error", message, "", code};
}

}  // namespace

void check_browser(const HttpRequest& request, std::string_view cors_origin) {
  const std::string host = lower_case(request.header("host").substr(0, kMostHostBytes));
  const std::string name = without_port(host);
  if (!host.empty() && name != "localhost" && !is_address(name))
    throw forbidden(
        fmt::format("Host: expected an address or localhost, found {}. Under another name this server is to "
                    "be used with a key (--api-key-file)",
                    json_excerpt(host)),
        "host_not_allowed");
  const std::string_view origin = request.header("origin");
  if (origin.empty() || cors_origin == "*" || origin == cors_origin) return;
  if (const std::string from = lower_case(origin); from == "http://" + host || from == "https://" + host) return;
  throw forbidden(fmt::format("Origin: expected this server's own, found {}. --cors-origin allows another one",
                              json_excerpt(std::string(origin))),
                  "origin_not_allowed");
}

}  // namespace sluice
