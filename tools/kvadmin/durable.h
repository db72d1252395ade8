// Making files and names durable.
//
// Threads: any.
#pragma once

#include <string>

#include "src/base/result.h"

namespace pando::admin {

// fsync of a file or a directory.
Status SyncPath(const std::string& path);
// Of the directory that holds `path`: so that its name lasts.
Status SyncParent(const std::string& path);

}  // namespace pando::admin
