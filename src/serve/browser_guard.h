// Which requests a server without keys takes from browsers. A page of any site may send requests to loopback, directly
// or under a name of its own that it lets resolve to 127.0.0.1 (DNS rebinding); browsers tell both in Host and Origin.
#pragma once
#include <string_view>

#include "serve/http_message.h"

namespace sluice {

/// Throws ApiError (403) unless the request's Host is localhost or a literal address, and its Origin is that very host
/// or `cors_origin` ("*": any). A header that is absent is not checked: browsers send Host always, Origin with every
/// request of another site that is more than a link or an image.
void check_browser(const HttpRequest& request, std::string_view cors_origin);

}  // namespace sluice
