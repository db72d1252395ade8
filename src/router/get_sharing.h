// GetSharing: gets of a key that many clients read at once are sent to its node as one.
//
// While a get of a key is on its way, further ones wait for it. When it has been answered, one get goes out for all of
// them, and its answer goes to each. It was sent after every one of them had come, so each sees what was acknowledged
// before it began (a get that shared one already on its way might not).
//
// Only gets that say nothing but their key share, of clients that are anonymous: an answer never crosses from one user
// to another.
//
// Threads: one reactor.
//
// Invariants
//   GS1  A get gets the answer of a get that was sent after it had come.
//   GS2  A get that waits is answered within its own budget.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "src/router/point_call.h"

namespace pando {

class GetSharing {
 public:
  using Calls = std::vector<std::unique_ptr<PointCall>>;

  // Takes the call if an equal one is on its way. Otherwise it returns false, and the call is to be sent.
  bool Join(std::unique_ptr<PointCall>* call);
  // The call has ended. Returns the equal one that is to be sent next, with those that share it; null: none.
  std::unique_ptr<PointCall> Leave(PointCall* call);

 private:
  // By the hash of the key. A key whose place another one has does not share.
  std::array<PointCall*, 1024> on_their_way_{};
};

}  // namespace pando
