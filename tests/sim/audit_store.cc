#include "tests/sim/audit_store.h"

#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"

namespace pando {

Task<std::string> AuditStore(Reactor& reactor, std::string data_dir) {
  return engine_test::Audit(reactor, std::move(data_dir));
}

}  // namespace pando
