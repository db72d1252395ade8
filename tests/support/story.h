// Stories: schedules of a simulated cluster as text, one statement a line. '#' begins a comment.
//
//   machine a starts
//   3 clients work on 2 keys
//   at 500ms pause a inside a turn for 2s
//   cut clients -> a
//   after 300ms machine a loses power
//   heal
//   machine a starts
//   clients stop
//   client 1 puts x = 1
//   expect client 2 gets x = 1
//
// docs/TESTING.md lists all statements; tests/sim/story_runner.h carries them out. A statement may
// begin with a time: `at` counts from the beginning of the story, `after` from the statement before
// it. A statement begins when the one before it has ended. An operation of a client ends with its
// answer, unless `meanwhile` stands before it. `expect` stands before an operation whose outcome
// must be the one that the statement names.
//
// Threads: plain values.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/io/reactor.h"

namespace pando {

struct Statement {
  enum class Kind {
    // -- machines
    kStart,      // machine; optionally reactors
    kStop,       // machine; finishes what runs
    kCrash,      // machine; the process dies, the page cache survives
    kPowerLoss,  // machine
    kPowerLossEverywhere,
    // -- the network; `from` and `to` are machines, `clients` stands for all machines of clients
    kCut,       // from, to
    kCutBoth,   // from, to
    kHeal,      // everything
    kHealOne,   // from, to
    kHealBoth,  // from, to
    kDelay,     // from, to, low, high
    kHold,      // from, to, time: bytes of the connections that exist now
    kReset,     // from, to: both ends
    kForget,    // machine, peer: only the end of `machine` ends, and the other end learns nothing
    // -- pauses and clocks
    kPause,        // machine, time; its clock goes on
    kFreeze,       // machine, time; its clock stands still
    kPauseInTurn,  // machine, time; optionally calls
    kClockRate,    // machine, rate
    kClockJump,    // machine, shift
    // -- disks
    kDiskSlow,      // machine, low, high
    kDiskHangs,     // machine
    kSyncsHang,     // machine
    kDiskRecovers,  // machine; from being slow or hung, or from failing
    kDiskFull,      // machine
    kDiskRoom,      // machine
    kSyncsFail,     // machine, count
    kSyncsLie,      // machine: syncs report a durability that there is not
    kImage,         // machine, image
    kRestore,       // machine, image; the machine must be down
    // -- clients
    kWork,  // clients, keys: random operations until `clients stop`
    kWorkStop,
    kGet,     // client, key; with `expect` also value
    kPut,     // client, key, value
    kRemove,  // client, key
    kSwap,    // client, key, expected, value
    kAdd,     // client, delta, key; with `expect` also value
    kWait,    // time
  };
  // What `expect` demands of an operation.
  enum class Expected { kAnything, kSuccess, kRefusal, kFailure };

  Kind kind = Kind::kWait;
  int line = 0;
  std::string text;  // the statement with single spaces and without comments; it parses to the same
  std::optional<Nanos> at_ns, after_ns;
  bool meanwhile = false;
  Expected expected = Expected::kAnything;

  bool Has(std::string_view name) const { return arguments.contains(std::string(name)); }
  // REQUIRES: the statement has the argument. (A missing one is a mistake of the grammar's table.)
  const std::string& Word(std::string_view name) const;
  int64_t Number(std::string_view name) const;  // times are in nanoseconds, rates in ppm
  // The value of a record: not set if the word is `nothing`.
  std::optional<std::string> Value(std::string_view name) const;

  struct Argument {
    std::string word;
    int64_t number = 0;
  };
  std::map<std::string, Argument> arguments;
};

// kInvalidArgument names the line, the column, what was found and what could stand there.
Result<std::vector<Statement>> ParseStory(std::string_view text);

// The statements as a story, one a line.
std::string StoryText(const std::vector<Statement>& story);

// One line for every form of statement, as docs/TESTING.md shows them.
std::vector<std::string> StoryGrammar();

}  // namespace pando
