#include "src/node/write_path.h"

#include <cstring>
#include <optional>
#include <utility>

#include "src/kvapi/kv_requests.h"
#include "src/node/session_call.h"
#include "src/rpc/rpc_dispatch.h"

namespace pando {

namespace {

// The reply in the binary protocol, after the name of the method. The constants below are the offsets
// to patch.
constexpr char kReplyHead[] =
    "\0\0\0\0"  // frame length
    "\x80\x01\x00\x02"
    "\0\0\0\0";  // T_REPLY, length of the method's name
constexpr size_t kReplyHeadBytes = sizeof(kReplyHead) - 1;
constexpr size_t kNameLengthAt = 8;
constexpr char kReplyTail[] =
    "\0\0\0\0"      // sequence id
    "\x0c\x00\x00"  // result field 0: struct WriteResult
    "\x02\x00\x01"
    "\x01"  // field 1: applied
    "\x0a\x00\x02"
    "\0\0\0\0\0\0\0\0"  // field 2: version
    "\x02\x00\x05"
    "\0"                // field 5: existed
    "\x02\x00\x07\x00"  // fields 7, 9 and 10, false: current_value_omitted, previous_value_omitted, withheld
    "\x02\x00\x09\x00"
    "\x02\x00\x0a\x00"
    "\0"
    "\0";  // end of WriteResult (without its optional fields), of the result
constexpr size_t kReplyTailBytes = sizeof(kReplyTail) - 1;
constexpr size_t kReplyVersionAt = 14, kReplyExistedAt = 25;
constexpr size_t kReplyEndBytes = 2;  // after the fields of WriteResult
static_assert(kReplyHeadBytes == 12 && kReplyTailBytes == 40);

void Clear(api::Condition* condition) {
  condition->value.clear();
  condition->__isset = {};
}

// Gives every field its default, so that `request` can be decoded into again without an allocation.
void Clear(api::PutRequest* request) {
  request->key.clear();
  request->value.clear();
  Clear(&request->condition);
  request->ttl_mode = 0;
  request->ttl_ms = request->expires_at_ms = 0;
  request->return_previous = false;
  request->__isset = {};
}
void Clear(api::RemoveRequest* request) {
  request->key.clear();
  Clear(&request->condition);
  request->return_previous = false;
  request->__isset = {};
}
void Clear(api::IncrementRequest* request) {
  request->key.clear();
  request->delta = 0;
  Clear(&request->condition);
  request->ttl_mode = 0;
  request->ttl_ms = request->expires_at_ms = 0;
  request->__isset = {};
}
void Clear(api::TouchRequest* request) {
  request->key.clear();
  Clear(&request->condition);
  request->ttl_mode = 0;
  request->ttl_ms = request->expires_at_ms = 0;
  request->__isset = {};
}
void Clear(api::Context* context) {
  ResetForPlainRead(context);
  context->client_id.clear();
  context->sequence = context->first_sent_ms = 0;
  context->traceparent.clear();
  context->__isset = {};
}

// Gives every field its default, but keeps the memory of key and value.
void Clear(WriteOp* op) {
  op->key.clear();
  op->value.clear();
  op->delta = 0;
  op->condition = Condition();
  op->ttl_mode = TtlMode::kKeep;
  op->ttl_ms = op->expires_at_ms = 0;
  op->current_value_unwanted = op->return_previous = false;
}

}  // namespace

void AppendWriteReply(std::string_view method, int32_t seqid, Version version, bool existed, std::string* out,
                      std::string_view session) {
  char head[kReplyHeadBytes], tail[kReplyTailBytes];
  std::memcpy(head, kReplyHead, kReplyHeadBytes);
  std::memcpy(tail, kReplyTail, kReplyTailBytes);
  const size_t context_bytes = session.empty() ? 0 : SessionContextBytes(session);
  const size_t bytes = kReplyHeadBytes - kFrameHeaderBytes + method.size() + kReplyTailBytes + context_bytes;
  StoreBigEndian32(head, static_cast<uint32_t>(bytes));
  StoreBigEndian32(head + kNameLengthAt, static_cast<uint32_t>(method.size()));
  StoreBigEndian32(tail, static_cast<uint32_t>(seqid));
  StoreBigEndian64(tail + kReplyVersionAt, version);
  tail[kReplyExistedAt] = existed ? 1 : 0;
  out->append(head, kReplyHeadBytes);
  out->append(method);
  if (session.empty()) {
    out->append(tail, kReplyTailBytes);
    return;
  }
  out->append(tail, kReplyTailBytes - kReplyEndBytes);
  AppendSessionContext(session, version, out);
  out->append(tail + kReplyTailBytes - kReplyEndBytes, kReplyEndBytes);
}

// One write, from its request until it is done. Its timer is used only if its deadline is before that
// of an earlier write.
struct WritePath::Entry final : PointWrite, Timer {
  explicit Entry(WritePath* p) : path(p), room(p->server_->account().budget(), kMaxValueBytes) {
    values = &room;
    on_fire = [](Timer* t) {
      auto* entry = static_cast<Entry*>(t);
      entry->path->AnswerLate(entry);
    };
  }
  void OnDone() override;  // on the reactor of the partition

  WritePath* const path;
  RequestId id;
  std::string_view method;
  Histogram* latency = nullptr;
  Nanos received_ns = 0, deadline_ns = 0;
  int32_t budget_ms = 0;
  MemoryGrant memory;
  ValueRoom room;
  WriteOp named;  // a kOnce; without a sequence: the write has no name
  // Lets the deadline withdraw a write that runs as a coroutine, or on another reactor.
  std::optional<WriteControl> withdrawal;
  std::unique_ptr<SessionToken> session;  // null: the request has none
  WritePath* runs_on = nullptr;           // that of the partition's reactor
  uint32_t partition_id = 0;
  bool answered = false;
  bool queued = false;  // in deadlines_
  Entry* before = nullptr;
  Entry* after = nullptr;
};

// Writes on their way to another reactor, or back when they are done. Those of one turn travel
// together, and each comes back as soon as it is done.
class WritePath::RemoteWrites final : public RemoteCall {
 public:
  explicit RemoteWrites(WritePath* t) : target(t) {}
  void Start() override {
    for (Entry* entry : entries) target->Arrive(entry);
    target->server_->reactor().Return(this);
  }
  void Finish() override { delete this; }

  WritePath* const target;
  std::vector<Entry*> entries;
};

// A session that has lost an earlier write learns that when it reads next at its level.
void WritePath::Entry::OnDone() {
  if (session && status.ok()) {
    const std::optional<SessionPoint> carried = session->At(partition_id);
    const bool changed = carried && carried->epoch < end.epoch;
    if (changed && runs_on->backend_->read_gate->IsLost(partition_id, *carried)) end = *carried;
  }
  runs_on->done_.push_back(this);
  runs_on->server_->ArmTurnEnd();
}

WritePath::WritePath(RpcServer* server, KvBackend* backend, TaskGroup* tasks)
    : server_(server), backend_(backend), tasks_(tasks) {
  timer_.path = this;
  timer_.on_fire = [](Timer* t) { static_cast<QueueTimer*>(t)->path->OnDeadline(); };
}

WritePath::~WritePath() {
  CHECK_EQ(in_progress_, 0u) << "writes are still in progress";
  server_->reactor().CancelTimer(&timer_);
}

// -- requests

std::unique_ptr<WritePath::Entry> WritePath::TakeEntry() {
  if (spare_.empty()) return std::make_unique<Entry>(this);
  std::unique_ptr<Entry> entry = std::move(spare_.back());
  spare_.pop_back();
  return entry;
}

void WritePath::PutAway(std::unique_ptr<Entry> entry) {
  entry->memory.ReleaseAll();
  if (spare_.size() >= kMaxSpares || entry->op.key.capacity() + entry->op.value.capacity() > kSpareBytes / 2) return;
  Clear(&entry->op);
  entry->result = OpResult();
  entry->control = nullptr;
  entry->once = nullptr;
  entry->withdrawal.reset();
  entry->session.reset();
  entry->seen_epoch = 0;
  entry->seen_version = 0;
  entry->end = SessionPoint();
  entry->answered = false;
  spare_.push_back(std::move(entry));
}

template <typename Args>
std::unique_ptr<WritePath::Entry> WritePath::Decode(const RpcRequest& request, std::string_view method) {
  std::unique_ptr<Entry> entry = TakeEntry();
  entry->memory = MemoryGrant(&server_->account());
  const size_t bytes = kCallOverheadBytes + 2 * request.body.size();
  auto& args = std::get<Args>(args_);
  Clear(&args.context);
  Clear(&args.request);
  std::optional<api::KvError> refusal;
  bool taken = false;
  if (!entry->memory.TryGrow(bytes)) {
    server_->ReplyOverloaded(request.id, method, bytes);
  } else if (Status s = server_->codec().Read(request.id.protocol, request.body, &args, &entry->memory); !s.ok()) {
    ReplyUndecodable(server_, request.id, method, s);
  } else if ((refusal = ToLevel(args.context, entry.get())) ||
             (refusal = ToOnce(args.context, backend_->RemembersWrites(), &entry->named)) ||
             (refusal = ToWriteOp(args.request, &entry->op))) {
    server_->ReplyError(request.id, method, *refusal);
  } else {
    entry->budget_ms = args.context.budget_ms;
    taken = true;
  }
  if (request.body.size() > kSpareBytes) Renew(&args);  // its strings may be as long
  if (taken) return entry;
  PutAway(std::move(entry));
  return nullptr;
}

template <typename Args>
void WritePath::Take(const RpcRequest& request, std::string_view method, Histogram* latency) {
  std::unique_ptr<Entry> entry = Decode<Args>(request, method);
  if (!entry) return;
  entry->id = request.id;
  entry->method = method;
  entry->latency = latency;
  Begin(std::move(entry));
}
template void WritePath::Take<api::Kv_put_args>(const RpcRequest&, std::string_view, Histogram*);
template void WritePath::Take<api::Kv_remove_args>(const RpcRequest&, std::string_view, Histogram*);
template void WritePath::Take<api::Kv_increment_args>(const RpcRequest&, std::string_view, Histogram*);
template void WritePath::Take<api::Kv_touch_args>(const RpcRequest&, std::string_view, Histogram*);

Refusal WritePath::ToLevel(const api::Context& context, Entry* entry) const {
  entry->level = ToWriteLevel(context);
  if (!backend_->cluster_id) return CheckWriteContext(context);
  if (Refusal refusal = CheckWriteContextInCluster(context)) return refusal;
  entry->seen_version = static_cast<Version>(context.hlc);
  if (context.session.empty()) return {};
  entry->session = std::make_unique<SessionToken>();
  return ToSession(context, *backend_->cluster_id, entry->session.get());
}

void WritePath::Begin(std::unique_ptr<Entry> owned) {
  Entry* entry = owned.release();  // until Finish
  ++in_progress_;
  entry->begun = false;
  const RpcOptions& options = server_->options();
  entry->budget_ms = options.BudgetMs(entry->budget_ms);
  entry->received_ns = server_->reactor().NowNs();
  entry->deadline_ns = entry->received_ns + entry->budget_ms * kMillisecond;
  server_->BeginCall(entry->id);
  JoinDeadlines(entry);
  entry->partition_id = backend_->serving.PartitionOf(entry->op.key);
  const uint32_t reactor = backend_->store->ReactorOf(entry->partition_id);
  if (entry->session) entry->seen_epoch = entry->session->EpochOf(entry->partition_id);
  backend_->keys.Store(&entry->op.key);
  if (entry->named.sequence > 0) {
    kLaneKeys.Store(&entry->named.key);
    entry->once = &entry->named;
  }
  entry->runs_on = backend_->write_paths[reactor];
  server_->ArmTurnEnd();
  if (reactor == backend_->reactor) return gathered_.push_back(entry);
  UseControl(entry);
  metrics_.remote_total.Add();
  BatchFor(reactor)->entries.push_back(entry);
}

WritePath::RemoteWrites* WritePath::BatchFor(uint32_t reactor) {
  if (gathering_.empty()) gathering_.resize(backend_->peers.size());
  RemoteWrites*& writes = gathering_[reactor];
  if (!writes) writes = new RemoteWrites(backend_->write_paths[reactor]);  // until it has returned
  return writes;
}

void WritePath::UseControl(Entry* entry) {
  entry->control = &entry->withdrawal.emplace();
  entry->control->deadline_ns = entry->deadline_ns;
  entry->control->values = &entry->room;
}

// -- writes

void WritePath::OnTurnEnd() {
  if (!gathered_.empty()) BeginGathered();
  // Answering a write may end its call, but begins none.
  for (Entry* entry : done_) {
    if (entry->path == this) {
      Finish(entry);
    } else {
      BatchFor(entry->path->backend_->reactor)->entries.push_back(entry);
    }
  }
  done_.clear();
  for (uint32_t reactor = 0; reactor < gathering_.size(); ++reactor) {
    RemoteWrites* writes = std::exchange(gathering_[reactor], nullptr);
    if (writes) server_->reactor().CallRemote(static_cast<int>(reactor), writes);
  }
}

// From another reactor: a write to begin here, or one that has been done there.
void WritePath::Arrive(Entry* entry) {
  (entry->path == this ? done_ : gathered_).push_back(entry);
  server_->ArmTurnEnd();
}

void WritePath::BeginGathered() {
  // After a pause of the process, a deadline may have passed already.
  std::erase_if(gathered_, [this](Entry* entry) {
    const bool late = entry->path == this && entry->answered;
    if (late) done_.push_back(entry);
    return late;
  });
  for (Entry* entry : gathered_) entry->partition = backend_->stored[entry->partition_id];
  writes_.assign(gathered_.begin(), gathered_.end());
  backend_->batch_write(writes_);
  for (Entry* entry : gathered_) {
    (entry->begun ? metrics_.begun_total : metrics_.slowly_total).Add();
    if (!entry->begun) tasks_->Spawn(WriteSlowly(entry));
  }
  gathered_.clear();
}

Task<void> WritePath::WriteSlowly(Entry* entry) {
  if (entry->partition == nullptr) {
    entry->status = PartitionNotHere(entry->partition_id);
    entry->OnDone();
    co_return;
  }
  // Write consumes the operation; the reply needs the rest of it.
  std::vector<WriteOp> ops;
  if (entry->once) ops.push_back(entry->named);
  WriteOp shape = KeepShape(entry->op);
  ops.push_back(std::exchange(entry->op, std::move(shape)));
  if (!entry->control) UseControl(entry);
  WriteOptions options;
  options.level = entry->level;
  options.seen_epoch = entry->seen_epoch;
  options.seen_version = entry->seen_version;
  options.control = entry->control;
  // May wait for the disk. The deadline may answer the request meanwhile.
  Result<std::vector<OpResult>> outcome = co_await entry->partition->Write(std::move(ops), options);
  entry->status = outcome.status();
  if (outcome.ok()) entry->result = std::move(outcome->back());
  entry->end = entry->control->end;
  entry->OnDone();
}

void WritePath::Finish(Entry* entry) {
  std::unique_ptr<Entry> owned(entry);
  entry->memory.Adopt(&entry->room);
  LeaveDeadlines(entry);
  if (!entry->answered) Answer(entry);
  entry->latency->Record(static_cast<uint64_t>(server_->reactor().NowNs() - entry->received_ns));
  const RequestId id = entry->id;
  PutAway(std::move(owned));
  --in_progress_;
  server_->EndCall(id);
}

// Empty: this node is alone.
std::string_view WritePath::SessionOf(Entry* entry) {
  session_.clear();
  if (!backend_->cluster_id || entry->end.epoch == 0) return session_;
  if (entry->session) {
    entry->session->Raise(entry->partition_id, entry->end);
    session_ = EncodeSessionToken(*entry->session);
  } else {
    AppendSessionToken(*backend_->cluster_id, entry->partition_id, entry->end, &session_);
  }
  return session_;
}

void WritePath::Answer(Entry* entry) {
  CHECK(!std::exchange(entry->answered, true)) << "WP1: a write was answered twice";
  if (!entry->status.ok()) return server_->ReplyError(entry->id, entry->method, ToKvError(entry->status, true));
  const OpResult& result = entry->result;
  const bool plain = result.outcome == OpOutcome::kApplied && entry->op.op != RecordOp::kIncrement &&
                     !entry->op.return_previous && entry->id.protocol == WireProtocol::kBinary;
  if (plain) {
    const std::string_view session = SessionOf(entry);
    AppendWriteReply(entry->method, entry->id.seqid, result.version, result.existed, server_->BeginReply(entry->id),
                     session);
    return server_->EndReply(entry->id);
  }
  api::Kv_put_result reply;  // the results of all four methods are the same on the wire
  reply.__isset.success = true;
  if (Refusal refusal = ToWriteResult(entry->op, entry->result, &reply.success)) {
    return server_->ReplyError(entry->id, entry->method, *refusal);
  }
  api::ReplyContext& context = reply.success.context;
  context.session = SessionOf(entry);
  context.hlc = static_cast<int64_t>(entry->result.version);
  context.__isset.session = context.__isset.hlc = reply.success.__isset.context = !session_.empty();
  server_->Reply(entry->id, entry->method, reply);
}

// -- deadlines. Most clients give all of their requests the same time, so most deadlines come in the
// order of the requests, and one timer is enough for them.

void WritePath::JoinDeadlines(Entry* entry) {
  if (deadlines_.last && deadlines_.last->deadline_ns > entry->deadline_ns) {
    return server_->reactor().ArmTimer(entry, entry->deadline_ns);
  }
  entry->queued = true;
  entry->before = std::exchange(deadlines_.last, entry);
  (entry->before ? entry->before->after : deadlines_.first) = entry;
  // The timer may be armed for a write that is done.
  if (timer_.armed && timer_.deadline_ns <= entry->deadline_ns) return;
  server_->reactor().CancelTimer(&timer_);
  server_->reactor().ArmTimer(&timer_, entry->deadline_ns);
}

void WritePath::LeaveDeadlines(Entry* entry) {
  if (!std::exchange(entry->queued, false)) return server_->reactor().CancelTimer(entry);
  (entry->before ? entry->before->after : deadlines_.first) = entry->after;
  (entry->after ? entry->after->before : deadlines_.last) = entry->before;
  entry->before = entry->after = nullptr;
}

// The write for which the timer was armed may be done, so it may be early.
void WritePath::OnDeadline() {
  const Nanos now = server_->reactor().NowNs();
  while (Entry* entry = deadlines_.first) {
    if (entry->deadline_ns > now) return server_->reactor().ArmTimer(&timer_, entry->deadline_ns);
    LeaveDeadlines(entry);
    AnswerLate(entry);
  }
}

void WritePath::AnswerLate(Entry* entry) {
  CHECK(!std::exchange(entry->answered, true)) << "WP1: a write was answered twice";
  // Without a control it was begun on this reactor, or it will be at the end of this turn.
  const bool not_applied = entry->control ? entry->control->Withdraw() : !entry->begun;
  ReplyLate(server_, entry->id, entry->method, entry->budget_ms, not_applied);
}

}  // namespace pando
