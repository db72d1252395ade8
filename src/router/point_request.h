// A request that names one key (get, put, remove, increment, touch), as a router looks at it: it reads the context and
// the key, and passes the rest on as it is. In these five methods the key is the field 1 of the request.
//
// Only the usual form is understood here: the binary protocol, the context as the first field of the arguments (or
// left out), the request as the second, and the key as its first field. Anything else is decoded as a whole.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace pando {

struct PointRequestView {
  std::string_view context;  // the encoded struct; empty: left out
  std::string_view rest;     // the request and what follows: the body without its context
  std::string_view key;      // in `rest`
  bool only_key = false;     // the request has nothing else but empty fields: two with the same key are the same
};

// `body`: the encoded arguments. Nothing: it has another form, or is malformed.
std::optional<PointRequestView> ViewPointRequest(std::string_view body);

// What a reply is, by its first field.
enum class ReplyKind { kSuccess, kError, kOther };
ReplyKind KindOfReply(std::string_view body);
// ReplyContext.hlc of a success; 0: it has none.
int64_t HlcOfReply(std::string_view body);

// What the arguments begin with before the context's own bytes.
inline constexpr std::string_view kContextFieldHead("\x0c\x00\x01", 3);

}  // namespace pando
