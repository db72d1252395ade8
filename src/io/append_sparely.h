// AppendSparely: appending to a queue of bytes whose memory is counted by its size.
#pragma once

#include <string>
#include <string_view>

namespace pando {

// Appends `bytes` and grows the capacity by an eighth instead of doubling it. The memory budget
// counts unsent bytes by size, so a half-empty string would hold memory that no one has reserved.
inline void AppendSparely(std::string* to, std::string_view bytes) {
  const size_t needed = to->size() + bytes.size();
  if (needed > to->capacity()) {
    std::string grown;
    grown.reserve(needed + needed / 8);
    grown.append(*to);
    to->swap(grown);
  }
  to->append(bytes);
}

}  // namespace pando
