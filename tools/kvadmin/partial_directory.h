// PartialDirectory: builds a directory under a temporary name and renames it once its contents are
// durable. A directory with its final name is therefore always complete, even if kvadmin is killed.
//
// Threads: one.
//
//   NAME.partial/UNFINISHED   marks a directory that kvadmin created and has not finished. The
//                             process that builds the directory holds a lock (flock) on this file
//                             until the rename. kvadmin may clear a directory that has this marker
//                             if nobody holds the lock. It never touches one without the marker,
//                             unless that directory is empty. kvnode refuses to start on a marked
//                             directory (kUnfinishedName in src/partition/store_reading.h).
//   NAME                      the result. Before, it must not exist or must be an empty directory.
//
// Without Commit, the destructor removes what was built.
#pragma once

#include <functional>
#include <string>

#include "src/base/result.h"

namespace pando::admin {

class PartialDirectory {
 public:
  // Whether an entry with this name, directly in the directory, is one that the caller creates.
  // PartialDirectory removes only such entries.
  using IsOwn = std::function<bool(const std::string& name)>;

  explicit PartialDirectory(IsOwn is_own) : is_own_(std::move(is_own)) {}
  PartialDirectory(const PartialDirectory&) = delete;
  PartialDirectory& operator=(const PartialDirectory&) = delete;
  ~PartialDirectory();

  // Checks that `final_path` can be created. kAlreadyExists when it exists and is not empty, or
  // when its .partial directory exists and was not created by kvadmin. kInvalidArgument when it is
  // empty or a mount point. kNotFound when the directory that would hold it does not exist. Changes nothing.
  Status Prepare(const std::string& final_path);
  // Creates the directory, without what a killed attempt left in it. kLocked when another process
  // builds it, kAlreadyExists when it has just finished it.
  Status Create();
  // Call it once all contents are durable. The rename is durable when Commit returns. kAborted when
  // the directory is no longer the one that Create made.
  Status Commit();

  const std::string& path() const { return partial_; }      // where to build
  const std::string& final_path() const { return final_; }  // its name after Commit

 private:
  Status CheckFinal() const;
  Status CheckPartial() const;
  Status OpenMarker();
  bool OwnsMarker() const;
  Status ClearContents() const;
  Status Remove();
  void Unlock();

  const IsOwn is_own_;
  std::string final_, partial_;
  int marker_ = -1;  // open and locked from Create until the end of Commit
};

}  // namespace pando::admin
