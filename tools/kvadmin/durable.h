// Functions that make files and their names durable.
//
// Threads: any. The calls block.
#pragma once

#include <functional>
#include <string>

#include "src/base/result.h"

namespace pando::admin {

// Calls fsync on a file or a directory.
Status SyncPath(const std::string& path);
// Calls fsync on the directory that holds `path`, so that the name `path` survives a crash.
Status SyncParent(const std::string& path);

// Writes a file as a whole: it has its name once all of it is durable. With `replace` it takes the place of one that is
// there; otherwise that is kAlreadyExists.
Status WriteDurably(const std::string& path, const std::string& bytes, bool replace);

// Opens a directory and locks it (flock). kLocked when another process holds the lock.
Result<int> LockDirectory(const std::string& path);

// Opens a file for reading and writing, creates it if it does not exist, and locks it (flock). The
// returned descriptor is that of the file which has the name now: another process may rename or
// remove the file between the opening and the locking. kLocked when another process holds
// the lock. Tests pass `opened`, which is called between the two steps.
Result<int> OpenAndLock(const std::string& path, const std::function<void()>& opened = nullptr);

}  // namespace pando::admin
