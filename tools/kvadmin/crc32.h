// The CRC-32 of zlib, gzip and Parquet. With the instructions for carry-less multiplication, which all x86 processors
// of the last ten years have, it takes a tenth of the time of zlib's.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

namespace pando::admin {

uint32_t Crc32(std::string_view bytes);

}  // namespace pando::admin
