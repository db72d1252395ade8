// A linearizability checker: does one order of the operations on each key explain every answer, in
// which each operation takes effect at one moment between its invocation and its return?
//
// The algorithm is the just-in-time linearization of G. Lowe, "Testing for linearizability"
// (Concurrency and Computation, 2017), which improves J. Wing and C. Gong, "Testing and verifying
// concurrent objects" (1993). Keys are judged one by one, as in Porcupine (A. Athalye), because
// linearizability is local: a history is linearizable if and only if its part for each key is.
//
// The checker goes through the invocations and returns of one key in the order of time, and keeps
// every configuration that explains what was returned so far: the value, and which of the open
// operations have taken effect. At a return, it lets open operations take effect, in every order,
// until the returning one has. If no configuration is left, the history is not linearizable.
// Whenever no operation is open, nothing is left of the past but the possible values, so the work
// for a long history is the sum of the work for its parts.
//
// Four rules keep the configurations few:
//   - An open read that agrees with the value takes effect at once: it changes nothing for others.
//   - An operation of unknown outcome may take effect later or never. So a configuration that has
//     used fewer of them explains all that one which has used more does, and replaces it.
//   - Operations of unknown outcome that ask for the same take effect in the order of their
//     invocation, because nobody can tell them apart.
//   - An operation of unknown outcome takes effect only if another one needs the value that it
//     writes.
//
// Threads: one.
#pragma once

#include <cstddef>
#include <string>

#include "tests/support/history.h"

namespace pando {

// Faults that the tests of the checker give it, to show that they notice.
enum class CheckerMutant {
  kNone,
  kNoRealTime,        // an operation may take effect before its invocation
  kUnknownTwice,      // an operation of unknown outcome may take effect more than once
  kUnknownNever,      // an operation of unknown outcome has no effect
  kRefusedWrites,     // a refused swap may write
  kReadsAreFree,      // a read may return anything
  kNumbersAreFree,    // the number that an addition returns is not looked at
  kFirstOrderOnly,    // open operations take effect only in the order of their invocation
  kMoreUsedIsBetter,  // the second rule above, the wrong way round
};

struct LinearizabilityOptions {
  // Beyond so many configurations of one key at one time the checker gives up.
  size_t max_configurations = 200'000;
  Nanos zero_ns = 0;  // the times in explanations are relative to this
  CheckerMutant mutant = CheckerMutant::kNone;
};

struct Linearizability {
  enum class Verdict { kYes, kNo, kTooWide } verdict = Verdict::kYes;
  // If not kYes: the key, the answer that nothing explains, the values that were possible before
  // it, and the operations around it.
  std::string why;
  size_t most_configurations = 0;

  bool ok() const { return verdict == Verdict::kYes; }
};

Linearizability CheckLinearizable(const History& history, const LinearizabilityOptions& options = {});

}  // namespace pando
