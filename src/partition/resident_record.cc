#include "src/partition/resident_record.h"

namespace pando {

bool ReadResident(Tree* tree, Frame* leaf, std::string_view key, int64_t now_ms, ReadResult* out, RecordView* unread) {
  *out = ReadResult{};
  const std::optional<FoundRecord> found = tree->FindInLeaf(leaf, key);
  if (!found || HasExpired(found->record.expires_at_ms, now_ms)) return true;
  const RecordView& record = found->record;
  out->found = true;
  out->version = record.version;
  out->expires_at_ms = record.expires_at_ms;
  if (!record.overflow) {
    out->value = record.value;
    return true;
  }
  if (Frame* value = tree->FindOverflow(record.overflow_ref)) {
    tree->pool().Touch(value);
    tree->pool().CopyOverflow(*value, &out->value);
    return true;
  }
  *unread = record;
  return false;
}

}  // namespace pando
