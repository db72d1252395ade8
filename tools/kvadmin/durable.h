// Functions that make files and their names durable.
//
// Threads: any. The calls block.
#pragma once

#include <string>

#include "src/base/result.h"

namespace pando::admin {

// Calls fsync on a file or a directory.
Status SyncPath(const std::string& path);
// Calls fsync on the directory that holds `path`, so that the name `path` survives a crash.
Status SyncParent(const std::string& path);

}  // namespace pando::admin
