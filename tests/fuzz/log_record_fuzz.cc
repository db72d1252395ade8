// Fuzzes DecodeRecord with any bytes: it never reads out of bounds, and a record that it accepts is
// the same after encoding and decoding.
#include <cstdint>
#include <string>

#include "src/model/record.h"

namespace pando {
namespace {

bool Same(const LogRecord& a, const LogRecord& b) {
  return a.op == b.op && a.continues == b.continues && a.all_or_nothing == b.all_or_nothing && a.version == b.version &&
         a.ttl_mode == b.ttl_mode && a.expires_at_ms == b.expires_at_ms && a.delta == b.delta && a.key == b.key &&
         a.value == b.value && a.condition.version == b.condition.version && a.condition.value == b.condition.value &&
         a.condition.exists == b.condition.exists;
}

}  // namespace
}  // namespace pando

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pando;  // NOLINT(google-build-using-namespace): libFuzzer defines the entry point
  ByteReader reader({reinterpret_cast<const char*>(data), size});
  while (reader.remaining() > 0) {
    auto record = DecodeRecord(&reader);
    if (!record.ok()) {
      CHECK(record.code() == Code::kCorruption);
      break;
    }
    std::string bytes;
    EncodeRecord(*record, &bytes);
    ByteReader again(bytes);
    auto decoded = DecodeRecord(&again);
    CHECK(decoded.ok()) << decoded.status().ToString();
    CHECK(Same(*record, *decoded) && again.remaining() == 0);
  }
  return 0;
}
