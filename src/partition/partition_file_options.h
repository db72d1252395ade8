// What a partition's file is opened or created with.
//
// Threads: values.
#pragma once

#include <string>

#include "src/base/ids.h"
#include "src/io/directory.h"
#include "src/io/turn_budget.h"

namespace pando {

struct PartitionFileOptions {
  std::string path;
  Uuid node;
  Uuid partition;
  uint32_t page_bytes = 0;
  uint32_t seal_bytes = 0;  // left free at the end of every extent of a page or value (page.h)
  // The open store directory, and the file's name relative to it. Opening the file this way keeps
  // working when the store is moved. Null: the file is opened by `path`. The directory outlives the
  // file.
  const Directory* store = nullptr;
  std::string name = {};
  // The budget that the long loops of this reactor share. It outlives the file. Null: the file uses
  // a budget of its own.
  TurnBudget* turn = nullptr;
};

}  // namespace pando
