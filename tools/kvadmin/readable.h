// CheckReadable: tells what the user may not read from what is damaged.
//
// Threads: any. The call blocks.
#pragma once

#include <string>

#include "src/base/result.h"

namespace pando::admin {

// kIoError if this user may not read a file or a directory in the data directory: names it, the user,
// and its owner. Everything else about it is for others to judge.
Status CheckReadable(const std::string& data_dir);

}  // namespace pando::admin
