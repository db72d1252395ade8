// PartialDirectory: builds a directory under another name, and gives it its own once everything in it is durable. So a
// directory under its own name is always whole, whatever killed its maker.
//
//   NAME.partial/UNFINISHED   says that kvadmin made the directory and has not finished it. What has this file may be
//                             cleared away; what has not is somebody else's, and is never touched. kvnode refuses to
//                             make a store in such a directory (kUnfinishedName in src/partition/store_reading.h).
//   NAME                      the result; it must not exist before, or be an empty directory.
//
// Without Commit, the destructor removes what was built.
//
// Threads: one.
#pragma once

#include <functional>
#include <string>

#include "src/base/result.h"

namespace pando::admin {

class PartialDirectory {
 public:
  // Whether a file or directory right inside is of the kind that the maker makes. Only such are ever removed.
  using IsOwn = std::function<bool(const std::string& name)>;

  explicit PartialDirectory(IsOwn is_own) : is_own_(std::move(is_own)) {}
  PartialDirectory(const PartialDirectory&) = delete;
  PartialDirectory& operator=(const PartialDirectory&) = delete;
  ~PartialDirectory();

  // Whether `final_path` can be made: kAlreadyExists when it, or a .partial of somebody else, is there. Changes
  // nothing.
  Status Prepare(const std::string& final_path);
  // Clears what an attempt that was killed left, and makes the directory anew.
  Status Create();
  // To be called once all the contents are durable. Durable itself when it returns.
  Status Commit();

  const std::string& path() const { return partial_; }      // what to build in
  const std::string& final_path() const { return final_; }  // what it becomes

 private:
  Status Clear();

  const IsOwn is_own_;
  std::string final_, partial_;
  bool created_ = false;
};

}  // namespace pando::admin
