#include "src/node/get_path.h"

#include <array>
#include <cstring>
#include <utility>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/session_token.h"
#include "src/node/session_call.h"

namespace pando {

namespace {

// Limit for the values that one RemoteGets brings back. Gets whose values do not fit take the slow
// path.
constexpr size_t kMaxRemoteValueBytes = 1u << 20;
// How many unused RemoteGets are kept, and how much memory each of them keeps.
constexpr size_t kMaxSpares = 8;
constexpr size_t kMaxSpareValueBytes = 128u << 10, kMaxSpareKeyBytes = 16u << 10, kMaxSpareEntries = 512;
// What the keys of one turn leave behind at most.
constexpr size_t kMaxKeptKeyBytes = 256u << 10;

template <typename Container>
void ClearAndTrim(Container* container, size_t most) {
  container->clear();
  if (container->capacity() > most) Container().swap(*container);
}

// The reply in the binary protocol before and after the value. The constants below are the offsets
// to patch.
constexpr char kHead[] =
    "\0\0\0\0"  // frame length
    "\x80\x01\x00\x02"
    "\0\0\0\x03"
    "get"
    "\0\0\0\0"      // T_REPLY, method, sequence id
    "\x0c\x00\x00"  // result field 0: struct GetReply
    "\x0c\x00\x01"  // field 1: struct Record
    "\x02\x00\x01"
    "\0"  // field 1: found
    "\x0b\x00\x02"
    "\0\0\0\0";  // field 2: value, its length
constexpr size_t kHeadBytes = sizeof(kHead) - 1;
constexpr size_t kSeqidAt = 15, kFoundAt = 28, kValueLengthAt = 32;
constexpr char kTail[] =
    "\x0a\x00\x03"
    "\0\0\0\0\0\0\0\0"  // field 3: version
    "\x0a\x00\x04"
    "\0\0\0\0\0\0\0\0"  // field 4: expires_at_ms
    "\0"
    "\0"
    "\0";  // end of Record, of GetReply (without its optional context), of the result
constexpr size_t kTailBytes = sizeof(kTail) - 1;
constexpr size_t kVersionAt = 3, kExpiryAt = 14;
constexpr size_t kEndBytes = 2;  // after the fields of GetReply
static_assert(kHeadBytes == 36 && kTailBytes == 25);

}  // namespace

void AppendGetReply(int32_t seqid, bool found, std::string_view value, Version version, int64_t expires_at_ms,
                    std::string* out, std::string_view session, Version hlc) {
  char head[kHeadBytes], tail[kTailBytes];
  std::memcpy(head, kHead, kHeadBytes);
  std::memcpy(tail, kTail, kTailBytes);
  const size_t context_bytes = session.empty() ? 0 : SessionContextBytes(session);
  StoreBigEndian32(head,
                   static_cast<uint32_t>(kHeadBytes - kFrameHeaderBytes + value.size() + kTailBytes + context_bytes));
  StoreBigEndian32(head + kSeqidAt, static_cast<uint32_t>(seqid));
  head[kFoundAt] = found ? 1 : 0;
  StoreBigEndian32(head + kValueLengthAt, static_cast<uint32_t>(value.size()));
  StoreBigEndian64(tail + kVersionAt, version);
  StoreBigEndian64(tail + kExpiryAt, static_cast<uint64_t>(expires_at_ms));
  out->append(head, kHeadBytes);
  out->append(value);
  if (session.empty()) {
    out->append(tail, kTailBytes);
    return;
  }
  out->append(tail, kTailBytes - kEndBytes);
  AppendSessionContext(session, hlc, out);
  out->append(tail + kTailBytes - kEndBytes, kEndBytes);
}

// A batch of gets that travels to another reactor and returns with the answers. It owns all of its
// bytes. Many may wait while the target is busy, so their bytes are reserved: the keys when the
// batch sets out, the values before they are copied.
class GetPath::RemoteGets final : public RemoteCall {
 public:
  struct Answer {
    PointRead::Outcome outcome = PointRead::Outcome::kPending;
    Version version = 0;
    int64_t expires_at_ms = 0;
    size_t offset = 0, bytes = 0;  // in `values`
    SessionPoint shown;
  };

  explicit RemoteGets(GetPath* origin_path) : memory_(&origin_path->server_->account()), origin_path_(origin_path) {}
  ~RemoteGets() { Clear(); }
  // Called on the origin reactor.
  bool ReserveKeys() { return memory_.TryGrow(entries.size() * (sizeof(Entry) + sizeof(Answer)) + keys.size()); }
  // Called on the target reactor.
  bool ReserveValues(MemoryBudget* budget, size_t bytes) {
    if (!budget->TryReserve(static_cast<int64_t>(bytes))) return false;
    budget_ = budget;
    value_bytes_ = static_cast<int64_t>(bytes);
    values.reserve(bytes);
    return true;
  }
  void Start() override {
    target_path->ServeRemote(this);
    target_path->server_->reactor().Return(this);
  }
  void Finish() override { origin_path_->FinishRemote(this); }
  void Clear() {
    ClearAndTrim(&entries, kMaxSpareEntries);
    ClearAndTrim(&keys, kMaxSpareKeyBytes);
    ClearAndTrim(&answers, kMaxSpareEntries);
    ClearAndTrim(&values, kMaxSpareValueBytes);
    memory_.ReleaseAll();
    if (value_bytes_ > 0) budget_->Release(std::exchange(value_bytes_, 0));
  }
  size_t capacity_bytes() const {
    return entries.capacity() * sizeof(Entry) + keys.capacity() + answers.capacity() * sizeof(Answer) +
           values.capacity();
  }

  GetPath* target_path = nullptr;
  std::vector<Entry> entries;
  std::string keys;
  std::vector<Answer> answers;
  std::string values;

 private:
  MemoryGrant memory_;
  MemoryBudget* budget_ = nullptr;
  int64_t value_bytes_ = 0;  // reserved from budget_
  GetPath* const origin_path_;
};

GetPath::GetPath(RpcServer* server, KvBackend* backend, SlowGet slow_get)
    : server_(server),
      backend_(backend),
      slow_get_(std::move(slow_get)),
      gathering_(backend->store->reactors, nullptr) {}

GetPath::~GetPath() { CHECK_EQ(remotes_in_use_, 0u) << "gets are still in flight to other reactors"; }

size_t GetPath::spare_bytes() const {
  size_t bytes = 0;
  for (const auto& gets : spare_) bytes += gets->capacity_bytes();
  return bytes;
}

bool GetPath::Offer(const RpcRequest& request) {
  const bool taken = Take(request);
  if (request.body.size() > kMaxSpareKeyBytes) Renew(&args_);  // its strings may be as long
  return taken;
}

bool GetPath::Take(const RpcRequest& request) {
  ResetForPlainRead(&args_.context);
  args_.request.key.clear();
  args_.request.snapshot.clear();
  if (!server_->codec().Read(request.id.protocol, request.body, &args_).ok()) return false;
  const std::string& key = args_.request.key;
  if (key.empty() || key.size() > kMaxKeyBytes || !IsPlainRead(args_.context, backend_->cluster_id.has_value())) {
    return false;
  }
  if (!args_.request.snapshot.empty()) return false;

  Entry entry;
  entry.id = request.id;
  entry.partition = backend_->serving.PartitionOf(key);
  entry.budget_ms = args_.context.budget_ms;
  Gather(entry, key);
  server_->ArmTurnEnd();
  return true;
}

void GetPath::Gather(Entry entry, std::string_view key) {
  uint32_t reactor = backend_->store->ReactorOf(entry.partition);
  if (reactor == backend_->reactor) {
    AddKey(&entry, key, &keys_);
    entries_.push_back(entry);
  } else {
    RemoteGets* gets = BatchFor(reactor);
    AddKey(&entry, key, &gets->keys);
    gets->entries.push_back(entry);
  }
}

void GetPath::AddKey(Entry* entry, std::string_view key, std::string* keys) const {
  const std::string_view prefix = backend_->keys.prefix();
  entry->key_offset = static_cast<uint32_t>(keys->size());
  entry->key_bytes = static_cast<uint32_t>(prefix.size() + key.size());
  keys->append(prefix).append(key);
}

// The key as the request had it.
std::string_view GetPath::KeyOf(const Entry& entry, const std::string& keys) const {
  return backend_->keys.KeyOf(std::string_view(keys).substr(entry.key_offset, entry.key_bytes));
}

void GetPath::Park(const Entry& entry, std::string_view key) {
  metrics_.parked_total.Add();
  MemoryGrant memory(&server_->account());
  if (!memory.TryGrow(2 * sizeof(Parked) + key.size())) return server_->ReplyOverloaded(entry.id, "get");
  parked_.push_back({entry, std::string(key), std::move(memory)});
}

void GetPath::Park(const RequestId& id, std::string_view key, int32_t budget_ms) {
  Entry entry;
  entry.id = id;
  entry.partition = backend_->serving.PartitionOf(key);
  entry.budget_ms = budget_ms;
  Park(entry, key);
}

void GetPath::GoTheLongWay(const Entry& entry, std::string_view key) {
  if (!server_->HasRoom(entry.id, slow_bytes_)) return Park(entry, key);
  metrics_.misses_total.Add();
  slow_get_(entry.id, std::string(key), entry.budget_ms);
}

void GetPath::TakeUpParked() {
  std::vector<Parked> waiting;
  waiting.swap(parked_);
  for (Parked& p : waiting) {
    if (server_->IsClosed(p.entry.id)) {
      server_->BeginReply(p.entry.id);
      server_->EndReply(p.entry.id);
    } else if (server_->HasRoom(p.entry.id)) {
      Gather(p.entry, p.key);
    } else {
      parked_.push_back(std::move(p));
    }
  }
}

void GetPath::OnTurnEnd() {
  if (std::exchange(look_again_, false)) TakeUpParked();
  for (uint32_t reactor = 0; reactor < gathering_.size(); ++reactor) {
    RemoteGets* gets = std::exchange(gathering_[reactor], nullptr);
    if (gets == nullptr) continue;
    if (!gets->ReserveKeys()) {
      for (const Entry& entry : gets->entries) server_->ReplyOverloaded(entry.id, "get");
      PutAway(gets);
      continue;
    }
    metrics_.remote_total.Add(gets->entries.size());
    server_->reactor().CallRemote(static_cast<int>(reactor), gets);
  }
  if (!entries_.empty()) AnswerLocal();
}

void GetPath::FillReads(const std::vector<Entry>& entries, const std::string& keys) {
  reads_.resize(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& e = entries[i];
    reads_[i] = PointRead{};
    reads_[i].partition = backend_->stored[e.partition];
    reads_[i].key = std::string_view(keys).substr(e.key_offset, e.key_bytes);
  }
}

// What was found counts only if the lease still holds now. The slow path says what is wrong otherwise.
void GetPath::LookUp(const std::vector<Entry>& entries, const std::string& keys) {
  metrics_.gets_total.Add(entries.size());
  FillReads(entries, keys);
  backend_->batch_get(reads_);
  if (backend_->read_gate == nullptr) return;
  const Nanos fresh_now_ns = server_->reactor().FreshNowNs();
  shown_.resize(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!backend_->read_gate->Holds(entries[i].partition, fresh_now_ns)) reads_[i].outcome = PointRead::Outcome::kMiss;
    shown_[i] = backend_->read_gate->Shown(entries[i].partition).value_or(SessionPoint());
  }
}

void GetPath::AnswerLocal() {
  LookUp(entries_, keys_);
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (reads_[i].outcome == PointRead::Outcome::kMiss) continue;
    if (server_->HasRoom(entries_[i].id)) {
      Answer(entries_[i], reads_[i], shown_.empty() ? SessionPoint() : shown_[i]);
    } else {
      Park(entries_[i], KeyOf(entries_[i], keys_));
    }
  }
  // The slow gets start last, because they call the engine, and that invalidates the values found
  // in place.
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (reads_[i].outcome == PointRead::Outcome::kMiss) GoTheLongWay(entries_[i], KeyOf(entries_[i], keys_));
  }
  entries_.clear();
  ClearAndTrim(&keys_, kMaxKeptKeyBytes);
}

void GetPath::Answer(const Entry& entry, const PointRead& read, const SessionPoint& shown) {
  const RequestId& id = entry.id;
  if (server_->Exhausted()) [[unlikely]]
    return server_->ReplyOverloaded(id, "get");
  bool found = read.outcome == PointRead::Outcome::kFound;
  session_.clear();
  Version hlc = 0;
  if (backend_->cluster_id && shown.epoch != 0) {
    AppendSessionToken(*backend_->cluster_id, entry.partition, shown, &session_);
    hlc = backend_->HlcOf(entry.partition);
  }
  if (id.protocol == WireProtocol::kBinary) {
    AppendGetReply(id.seqid, found, read.in_place, read.version, read.expires_at_ms, server_->BeginReply(id), session_,
                   hlc);
    return server_->EndReply(id);
  }
  api::Kv_get_result result;
  result.__isset.success = true;
  api::Record& record = result.success.record;
  record.found = found;
  record.value = read.in_place;
  record.version = static_cast<int64_t>(read.version);
  record.expires_at_ms = read.expires_at_ms;
  result.success.context.session = session_;
  result.success.context.hlc = static_cast<int64_t>(hlc);
  result.success.context.__isset.session = result.success.context.__isset.hlc = result.success.__isset.context =
      !session_.empty();
  server_->Reply(id, "get", result);
}

// -- gets for partitions of other reactors

GetPath::RemoteGets* GetPath::BatchFor(uint32_t reactor) {
  RemoteGets*& gets = gathering_[reactor];
  if (gets != nullptr) return gets;
  if (spare_.empty()) spare_.push_back(std::make_unique<RemoteGets>(this));
  gets = spare_.back().release();
  spare_.pop_back();
  ++remotes_in_use_;
  gets->target_path = backend_->get_paths[reactor];
  return gets;
}

void GetPath::PutAway(RemoteGets* gets) {
  std::unique_ptr<RemoteGets> owned(gets);
  --remotes_in_use_;
  if (spare_.size() >= kMaxSpares) return;
  gets->Clear();
  spare_.push_back(std::move(owned));
}

void GetPath::ServeRemote(RemoteGets* gets) {
  LookUp(gets->entries, gets->keys);
  gets->answers.resize(reads_.size());
  size_t bytes = 0;
  for (const PointRead& read : reads_) {
    const bool fits = bytes + read.in_place.size() <= kMaxRemoteValueBytes;
    if (fits && read.outcome == PointRead::Outcome::kFound) bytes += read.in_place.size();
  }
  // Without memory the gets take the slow path, which reserves memory for each value or refuses it.
  if (!gets->ReserveValues(server_->account().budget(), bytes)) bytes = 0;
  for (size_t i = 0; i < reads_.size(); ++i) {
    const PointRead& read = reads_[i];
    RemoteGets::Answer& answer = gets->answers[i];
    answer = {read.outcome,        read.version,         read.expires_at_ms,
              gets->values.size(), read.in_place.size(), shown_.empty() ? SessionPoint() : shown_[i]};
    if (read.outcome != PointRead::Outcome::kFound) continue;
    if (gets->values.size() + read.in_place.size() > bytes) {
      answer.outcome = PointRead::Outcome::kMiss;
    } else {
      gets->values.append(read.in_place);
    }
  }
}

void GetPath::FinishRemote(RemoteGets* gets) {
  for (size_t i = 0; i < gets->entries.size(); ++i) {
    const Entry& entry = gets->entries[i];
    const RemoteGets::Answer& answer = gets->answers[i];
    const std::string_view key = KeyOf(entry, gets->keys);
    if (answer.outcome == PointRead::Outcome::kMiss) {
      GoTheLongWay(entry, key);
      continue;
    }
    if (!server_->HasRoom(entry.id)) {
      Park(entry, key);
      continue;
    }
    PointRead read;
    read.outcome = answer.outcome;
    read.version = answer.version;
    read.expires_at_ms = answer.expires_at_ms;
    if (answer.outcome == PointRead::Outcome::kFound) {
      read.in_place = std::string_view(gets->values).substr(answer.offset, answer.bytes);
    }
    Answer(entry, read, answer.shown);
  }
  PutAway(gets);
}

}  // namespace pando
