#include "src/io/resolved_path.h"

#include <filesystem>
#include <system_error>

namespace pando {

namespace fs = std::filesystem;

std::string ResolvedPath(const std::string& path) {
  std::error_code error;
  // weakly_canonical makes a path absolute only if the first name in it exists.
  fs::path resolved = fs::absolute(path, error);
  if (!error) resolved = fs::weakly_canonical(resolved, error);
  if (error) return path;
  if (!resolved.has_filename()) resolved = resolved.parent_path();  // "name/"
  return resolved.string();
}

bool LiesIn(const std::string& inner, const std::string& outer) {
  if (!inner.starts_with(outer)) return false;
  return inner.size() == outer.size() || outer.ends_with('/') || inner[outer.size()] == '/';
}

}  // namespace pando
