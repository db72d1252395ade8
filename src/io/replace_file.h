// Replaces a small file as a whole, so that a crash leaves the old one or the new one, and a full disk does not matter.
//
// Beside the file NAME there is a spare file, which has its blocks already. What is to be stored is written into the
// spare, and then the two exchange their names. So a replacement needs no new block, unless the file has become longer
// by some. The first replacement of a file that has no spare makes it, and needs a block. If the file system cannot
// exchange names, the spare is renamed, and each replacement needs a block.
//
// What the spare holds means nothing. If there is none, that is not an error.
//
// Threads: one reactor; one replacement of a file at a time.
//
// Invariants
//   RP1  The spare is written only while it is certain that it is not the file after a power failure: what has changed
//        names before is durable.
//   RP2  What the spare holds is complete and durable before it becomes the file.
//   RP3  After KeepSpare, a file of the same size can be replaced, as often as one likes, on a disk that is full.
#pragma once

#include <string>
#include <string_view>

#include "src/io/directory.h"

namespace pando {

struct ReplacedFile {
  std::string name, spare;
  bool direct = false;  // O_DIRECT: the contents are whole blocks in aligned memory
};

// The two steps. After an error of PrepareReplacement, the file is as it was. After one of PublishReplacement, it is
// unknown which of the two a power failure leaves. kDiskFull, with what to do: there was no spare, or it was too short.
// `contents` outlives the call.
Task<Status> PrepareReplacement(const Directory* directory, ReplacedFile file, std::string_view contents);
Task<Status> PublishReplacement(const Directory* directory, ReplacedFile file);
// Makes the spare if there is none, as long as there is room for it. Errors mean only that there is none.
Task<void> KeepSpare(const Directory* directory, ReplacedFile file, std::string_view contents);

}  // namespace pando
