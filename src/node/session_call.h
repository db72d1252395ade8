// SessionCall: what a request asks of the replicas by its level and its session, and what its reply tells the
// session (docs/REPLICATION.md, "Levels"). On a node that is alone it asks nothing and tells nothing.
//
// A read at BOUNDED or SESSION first waits until the replicas here have what it asks for (Await), and then goes to
// the places of the partitions that ask for no lease. Every reply names what it has shown (Note): where the
// history ended when the read had looked at it, which is not before what it saw.
//
// Threads: one reactor. It asks the gates of the other reactors there.
//
// Invariants
//   LV1  A read at BOUNDED shows every write that was acknowledged its bound before the read began.
//   LV2  A read at SESSION shows everything that its token says the session has seen, or answers SESSION_LOST. The
//        token of a reply covers what the reply shows and the request's token, unless that was lost.
//   LV5  No master takes a write, or answers a linearizable read, of a session that has seen a later master: the
//        answer is NOT_MASTER.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/session_token.h"
#include "src/node/kv_backend.h"

namespace pando {

class SessionCall {
 public:
  // Both outlive it.
  SessionCall(KvBackend* backend, Reactor* reactor) : backend_(*backend), reactor_(*reactor) {}

  // Takes level and session of a request. `snapshot`: it reads one, so its level asks nothing.
  Refusal Begin(const api::Context& context, bool snapshot = false);
  // Any replica may answer that has what the read asks for.
  bool any_replica() const { return any_replica_; }
  Partition* place(uint32_t id) const { return (any_replica_ ? backend_.replicas : backend_.partitions)[id]; }
  // Waits until these partitions here can answer, for a bounded time. Returns why those cannot that cannot.
  Task<std::map<uint32_t, Status>> Await(std::vector<uint32_t> ids, Nanos deadline_ns);
  // The read has looked at these partitions. Returns those whose answers do not count, and why: it has asked a
  // master, and its session has seen a later one (LV5).
  Task<std::map<uint32_t, Status>> Note(std::vector<uint32_t> ids);
  // The newest epoch that the session has seen, for a write (WriteOptions::seen_epoch).
  Epoch SeenEpoch(uint32_t id) const { return session_.EpochOf(id); }
  // A write has succeeded, and ends there.
  Task<void> NoteWrite(uint32_t id, SessionPoint end);

  // Puts into the reply the token, and a version at or above all that the call has seen or written.
  template <typename Reply>
  void Fill(Reply* reply) const {
    if (!backend_.cluster_id) return;
    if (hlc_ != 0) {
      reply->context.hlc = static_cast<int64_t>(hlc_);
      reply->context.__isset.hlc = reply->__isset.context = true;
    }
    std::string token = EncodeSessionToken(session_);
    if (token.empty()) return;
    reply->context.session = std::move(token);
    reply->context.__isset.session = reply->__isset.context = true;
  }

 private:
  struct Question {
    uint32_t partition = 0;
    ReplicaRead read;
    std::optional<SessionPoint> carried;
    // -- the answers
    Status status;
    std::optional<SessionPoint> shown;
    bool lost = false;
  };
  using Questions = std::vector<Question>;
  template <typename Ask>
  Task<void> AskAll(Questions* questions, Ask ask);
  Task<Questions> AskShown(std::vector<uint32_t> ids);
  void Raise(const Questions& questions);

  KvBackend& backend_;
  Reactor& reactor_;
  bool any_replica_ = false;
  ReplicaRead read_;
  bool after_session_ = false;
  SessionToken session_;
  Version hlc_ = 0;
};

// Of these partitions, in their order: the masterships that serve here, whose leases this node holds. An answer that
// says that there is nothing new counts only then. An error if one of them is not served here.
Task<Result<std::vector<Mastership>>> CheckLeases(KvBackend* backend, Reactor* reactor, std::vector<uint32_t> ids);

// Appends the context of a reply in the binary protocol, as the field 15 of its struct.
inline constexpr size_t SessionContextBytes(std::string_view session) { return 33 + session.size(); }
void AppendSessionContext(std::string_view session, Version hlc, std::string* out);

}  // namespace pando
