// The seal: the room for the nonce and the tag of an encryption at rest (docs/FORMAT.md, "Room for
// a seal"). It is zero today.
#pragma once

#include <cstdint>

namespace pando {

// In each batch of the log, and at the end of each superblock and of each extent of a page or
// value. Logs and stores of earlier versions do not have it.
inline constexpr uint32_t kSealBytes = 40;

}  // namespace pando
