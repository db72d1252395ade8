// ResolvedPath: where a path leads to, so that two paths can be compared before anything is written to either.
//
// Threads: any. It reads directories, so it is for startup only.
#pragma once

#include <string>

namespace pando {

// Absolute, without ".", ".." and a slash at the end, and with the targets of symbolic links in their place. What does
// not exist yet is taken as it is written. A path that cannot be resolved is returned as it is.
std::string ResolvedPath(const std::string& path);

// Whether `inner` is `outer`, or lies in it. REQUIRES: ResolvedPath has returned both.
bool LiesIn(const std::string& inner, const std::string& outer);

}  // namespace pando
