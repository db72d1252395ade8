#include "src/router/point_request.h"

#include <cstdint>

#include "src/rpc/binary_walker.h"

namespace pando {

namespace {

constexpr std::string_view kRequestFieldHead("\x0c\x00\x02", 3), kKeyFieldHead("\x0b\x00\x01", 3);
constexpr std::string_view kBothEnds("\0\0", 2), kNoSnapshot("\x0b\x00\x02\0\0\0\0", 7);
constexpr std::string_view kSuccessHead("\x0c\x00\x00", 3), kErrorHead("\x0c\x00\x01", 3);

}  // namespace

std::optional<PointRequestView> ViewPointRequest(std::string_view body) {
  PointRequestView view;
  BinaryWalker walker(body);
  if (walker.Take(kContextFieldHead)) {
    const size_t from = walker.at();
    walker.Struct(0);
    if (!walker.ok()) return std::nullopt;
    view.context = body.substr(from, walker.at() - from);
  }
  view.rest = body.substr(walker.at());
  if (!walker.Take(kRequestFieldHead)) return std::nullopt;
  BinaryWalker request(view.rest.substr(kRequestFieldHead.size()));
  if (!request.Take(kKeyFieldHead)) return std::nullopt;
  view.key = request.String();
  // As generated clients send a get: the key, perhaps an empty string (the snapshot) after it, and the ends of both
  // structs.
  const std::string_view after = view.rest.substr(kRequestFieldHead.size() + request.at());
  view.only_key =
      after == kBothEnds || (after.starts_with(kNoSnapshot) && after.substr(kNoSnapshot.size()) == kBothEnds);
  // What decides for the node must decide here: no second key, and no second context.
  walker.Struct(0, /*ordered=*/true);
  if (!walker.Take(std::string_view("", 1)) || !walker.AtEnd() || !request.ok()) return std::nullopt;
  return view;
}

ReplyKind KindOfReply(std::string_view body) {
  const std::string_view head = body.substr(0, kSuccessHead.size());
  return head == kSuccessHead ? ReplyKind::kSuccess : head == kErrorHead ? ReplyKind::kError : ReplyKind::kOther;
}

int64_t HlcOfReply(std::string_view body) {
  constexpr int kContextField = 15, kHlcField = 2;
  BinaryWalker walker(body);
  if (!walker.Take(kSuccessHead)) return 0;
  uint8_t type = 0;
  int id = 0;
  while (walker.Field(&type, &id)) {
    if (id != kContextField || type != BinaryWalker::kStruct) {
      walker.SkipValue(type);
      continue;
    }
    while (walker.Field(&type, &id)) {
      if (id == kHlcField && type == BinaryWalker::kI64) return walker.I64();
      walker.SkipValue(type);
    }
    return 0;
  }
  return 0;
}

}  // namespace pando
