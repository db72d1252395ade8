#include "tools/kvbench/engines/engine.h"

namespace pando::bench {

const std::vector<EngineInfo>& AllEngines() {
  static const std::vector<EngineInfo> engines = {PandoEngineInfo(), RocksDbEngineInfo(), LmdbEngineInfo(),
                                                  WiredTigerEngineInfo()};
  return engines;
}

const EngineInfo* FindEngine(std::string_view name) {
  for (const EngineInfo& engine : AllEngines()) {
    if (engine.name == name) return &engine;
  }
  return nullptr;
}

}  // namespace pando::bench
