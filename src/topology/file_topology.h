// FileTopology keeps the cluster map in a directory that the processes of one machine share. It
// takes no lock, so a process that is stopped or killed at any moment blocks nobody.
//
// Each revision of a key is a file of its own, which never changes: "partition.00012.000000000007"
// is revision 7 of the key partition/00012. CompareAndSwap writes a temporary file, syncs it, gives
// it the name of the next revision with link(2), which fails if that name exists, and syncs the
// directory. Then it gives the temporary name to "newest", a second name of whatever was written
// last, by which others notice that something has changed.
//
// The directory must be on a local file system with hard links. If it is replaced by another one,
// that one is read from then on, and Topology notices if it is older.
//
// Threads: one reactor. Listing the directory blocks for as long as the kernel needs to read it
// from its cache; that happens only when something was changed, and every TopologyWatch::kCheckNs.
//
// Invariants
//   TF1  A file with the name of a revision is complete and durable, and never changes.
//   TF2  The newest kKeptVersions revisions of a key keep their files. So a revision whose file does
//        not exist is either new, or kKeptVersions or more older than the newest; CompareAndSwap
//        tells these apart after the link, and then its outcome is unknown.
//   TF3  Nothing is reported before the name that it was read from is durable. So no power failure
//        takes back what somebody has seen.
//   TF4  Calls do not wait for each other, as the calls of several processes do not: what a call knows of the
//        directory belongs to the directory with which it has begun.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/io/directory.h"
#include "src/io/sync.h"
#include "src/topology/topology_store.h"

namespace pando {

class FileTopology final : public TopologyStore {
 public:
  static constexpr Revision kKeptVersions = 16;
  static constexpr Nanos kPollNs = 10 * kMillisecond;
  // A temporary file that has been seen for this long belongs to nobody who still runs.
  static constexpr Nanos kTemporaryAgeNs = 60 * kSecond;
  static constexpr size_t kMaxTemporaries = 1024;  // whose ages are known

  // Opens the directory `path`, which must exist.
  static Task<Result<std::unique_ptr<TopologyStore>>> Open(Reactor& reactor, std::string path);
  ~FileTopology() override = default;

  Task<Result<TopologyEntry>> Read(std::string key, Nanos deadline_ns) override;
  Task<Result<TopologyListing>> List(Nanos deadline_ns) override;
  // Says that there is a gap, or that nothing has changed since the last listing.
  Task<Result<TopologyChanges>> ReadChanges(Revision after, Nanos deadline_ns) override;
  Task<Result<CasOutcome>> CompareAndSwap(std::string key, Revision expected, std::string value,
                                          Nanos deadline_ns) override;
  Task<Result<TopologyChanges>> WaitForChange(Revision after, Nanos deadline_ns) override;
  void EndWaits() override { ending_ = true; }
  Task<Status> Close() override;
  bool one_counter() const override { return false; }  // each key counts its own
  const std::string& name() const override { return name_; }

  // Whether a file of this name, in any directory, is a revision of a key.
  static bool IsRevisionName(const std::string& name);

  // For tests. The name of a revision's file, and its contents.
  static std::string FileName(const std::string& key, Revision revision);
  static std::string FileContents(const std::string& key, Revision revision, const std::string& value);

 private:
  struct Names {
    std::map<std::string, std::vector<Revision>> revisions;  // of each key, rising
    std::vector<std::string> temporaries;
    Revision NewestOf(const std::string& key) const;
  };
  // A directory, and what is known of it. Calls that have begun with it end with it (TF4).
  struct Opened {
    Directory directory;
    FileIdentity identity;
    std::map<std::string, TopologyEntry> cache;  // what was read or written, and is durable
    MemoryGrant cache_memory;                    // what it takes; none before the first listing
    // What the last listing saw: "newest" just before it, and the sum of the revisions.
    bool listed = false;
    std::optional<FileIdentity> listed_newest;
    Revision listed_revision = 0;
    std::map<std::string, Nanos> temporaries;  // when each was first seen
  };
  using Used = std::shared_ptr<Opened>;

  FileTopology(Reactor& reactor, std::string path);
  Task<Result<Used>> UseDirectory();
  Task<Status> OpenDirectory();
  Task<void> CloseReplaced();
  Result<FileIdentity> IdentifyPath();
  static Result<std::optional<FileIdentity>> IdentifyNewest(const Opened& in);
  static Result<Names> ListNames(const Opened& in);
  Task<Result<TopologyListing>> ListAlone(Nanos deadline_ns);
  Task<Result<TopologyListing>> ListOnce(Used in);
  Task<Status> WriteTemporary(Used in, std::string name, std::string contents);
  Task<Result<CasOutcome>> Publish(Used in, std::string temporary, std::string key, Revision revision,
                                   std::string value);
  Task<void> RemoveOldVersions(Used in, std::string key, std::vector<Revision> revisions, Revision newest);
  Task<void> RemoveStaleTemporaries(Used in, std::vector<std::string> temporaries);
  void Keep(Opened* in, TopologyEntry entry);
  Task<Result<TopologyEntry>> Load(Used in, std::string key, Revision revision);
  Status Late(const char* what) const;
  Status CannotBeWritten(const Status& why) const;

  Reactor& reactor_;
  const std::string path_, name_;
  Used opened_;                 // null once it is closed
  std::vector<Used> replaced_;  // not closed yet, because calls may still use them
  Semaphore opening_;           // of whoever opens a directory
  Semaphore listing_;           // one listing at a time
  bool ending_ = false;
};

}  // namespace pando
