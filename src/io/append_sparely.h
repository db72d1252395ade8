// AppendSparely: appending to a queue of bytes whose memory is counted by its size. ReserveExactly:
// for strings whose memory is counted by their capacity.
#pragma once

#include <string>
#include <string_view>

namespace pando {

// Gives the string this capacity, which is not below its size. std::string::reserve may take more.
inline void ReserveExactly(std::string* string, size_t capacity) {
  std::string grown;
  grown.reserve(capacity);
  grown.append(*string);
  string->swap(grown);
}

// Appends `bytes` and grows the capacity by an eighth instead of doubling it. The memory budget
// counts unsent bytes by size, so a half-empty string would hold memory that no one has reserved.
inline void AppendSparely(std::string* to, std::string_view bytes) {
  const size_t needed = to->size() + bytes.size();
  if (needed > to->capacity()) ReserveExactly(to, needed + needed / 8);
  to->append(bytes);
}

}  // namespace pando
