// The web page: chat at /, monitor at /monitor. Built from web/ (`make web`), committed in web/dist, compiled in.
#pragma once
#include <span>
#include <string_view>

namespace sluice {

/// One file of the page, ready to be sent. Everything views static storage.
struct PageFile {
  std::string_view path;       // of the request, without query: "/", "/monitor", "/chat.js"
  std::string_view mime_type;  // Content-Type: "text/html; charset=utf-8"
  std::string_view etag;       // ETag with its quotes; changes exactly when `content` does
  std::string_view content;    // uncompressed
};

/// Every file of the page; each path occurs once.
std::span<const PageFile> page_files();

/// The file at `path`, nullptr where the page has none. Owned by the program.
const PageFile* find_page_file(std::string_view path);

/// Content-Security-Policy to send with every file of the page: nothing but the page's own scripts and styles runs, and
/// nothing is fetched from or sent to anywhere but this server, whatever a model writes. The page needs nothing looser.
inline constexpr std::string_view kPageSecurityPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'";

/// Cache-Control to send with every file of the page: browsers keep it and ask by ETag whether it is current (304).
inline constexpr std::string_view kPageCacheControl = "no-cache";

}  // namespace sluice
