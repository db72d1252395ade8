#include "tools/kvbench/engines/engine.h"

namespace pando::bench {

const std::vector<EngineInfo>& AllEngines() {
  static const std::vector<EngineInfo> engines = {PandoEngineInfo("pando", 0),
                                                  PandoEngineInfo("pando-4k", 4 << 10),
                                                  PandoEngineInfo("pando-8k", 8 << 10),
                                                  PandoEngineInfo("pando-16k", 16 << 10),
                                                  PandoEngineInfo("pando-32k", 32 << 10),
                                                  RocksDbEngineInfo(),
                                                  LmdbEngineInfo(),
                                                  WiredTigerEngineInfo(),
                                                  FioEngineInfo()};
  return engines;
}

const EngineInfo* FindEngine(std::string_view name) {
  for (const EngineInfo& engine : AllEngines()) {
    if (engine.name == name) return &engine;
  }
  return nullptr;
}

}  // namespace pando::bench
