#include "src/node/session_call.h"

#include <algorithm>
#include <utility>

#include "src/base/codec.h"
#include "src/io/call_on.h"

namespace pando {

Refusal SessionCall::Begin(const api::Context& context, bool snapshot) {
  if (!backend_.cluster_id) return {};
  if (Refusal refusal = ToSession(context, *backend_.cluster_id, &session_)) return refusal;
  if (snapshot) return {};
  switch (ToReadLevel(context)) {
    case ReadLevel::kLinearizable: return {};
    case ReadLevel::kBounded: read_.max_staleness_ns = context.max_staleness_ms * kMillisecond; break;
    case ReadLevel::kSession: after_session_ = true; break;
  }
  any_replica_ = true;
  return {};
}

// Calls `ask(gate, question)` for each, on the reactor of its partition.
template <typename Ask>
Task<void> SessionCall::AskAll(Questions* questions, Ask ask) {
  struct OnReactor {
    static Task<void> Run(const KvBackend* there, Questions* all, Ask ask) {
      for (Question& question : *all) {
        if (there->IsLocal(question.partition)) co_await ask(there->read_gate, &question);
      }
    }
    static Task<void> Go(KvBackend* here, Reactor* origin, uint32_t reactor, Questions* all, Ask ask) {
      const KvBackend* there = here->peers[reactor];
      if (reactor == here->reactor) {
        co_await Run(there, all, ask);
        co_return;
      }
      auto call = [there, all, ask](Reactor&) { return Run(there, all, ask); };
      co_await CallOn(*origin, static_cast<int>(reactor), std::move(call));
    }
  };
  std::vector<bool> wanted(backend_.peers.size());
  for (const Question& question : *questions) wanted[backend_.store->ReactorOf(question.partition)] = true;
  // They touch different questions.
  TaskGroup calls;
  for (uint32_t r = 0; r < wanted.size(); ++r) {
    if (wanted[r]) calls.Spawn(OnReactor::Go(&backend_, &reactor_, r, questions, ask));
  }
  co_await calls.Drain();
}

Task<std::map<uint32_t, Status>> SessionCall::Await(std::vector<uint32_t> ids, Nanos deadline_ns) {
  std::map<uint32_t, Status> refused;
  if (!any_replica_) co_return refused;
  // The halves that the session has seen may have taken writes that no replica of the whole has (docs/SPLIT.md).
  for (const uint32_t id : ids) {
    if (!after_session_ || !session_.HasSeenPartOf(id, backend_.serving.base())) continue;
    refused[id] = Error(Code::kNotMaster,
                        "partition {}: it was split, as the session has seen, and this node has not learned that yet: "
                        "ask another node",
                        id);
  }
  std::erase_if(ids, [&](uint32_t id) { return refused.contains(id); });
  struct AwaitOne {
    Task<void> operator()(ReadGate* gate, Question* question) const { return Run(gate, question); }
    static Task<void> Run(ReadGate* gate, Question* question) {
      question->status = co_await gate->Await(question->partition, question->read);
    }
  };
  Questions questions(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    Question& question = questions[i];
    question.partition = ids[i];
    question.read = read_;
    question.read.deadline_ns = deadline_ns;
    if (after_session_) question.read.after = session_.At(ids[i]);
  }
  Task<void> all = AskAll(&questions, AwaitOne());
  co_await all;
  for (Question& question : questions) {
    if (!question.status.ok()) refused[question.partition] = std::move(question.status);
  }
  co_return refused;
}

Task<SessionCall::Questions> SessionCall::AskShown(std::vector<uint32_t> ids) {
  struct ShowOne {
    Task<void> operator()(const ReadGate* gate, Question* question) const { return Run(gate, question); }
    static Task<void> Run(const ReadGate* gate, Question* question) {
      question->shown = gate->Shown(question->partition);
      question->lost = question->carried && question->shown && question->carried->epoch < question->shown->epoch &&
                       gate->IsLost(question->partition, *question->carried);
      co_return;
    }
  };
  Questions questions(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    questions[i].partition = ids[i];
    questions[i].carried = session_.At(ids[i]);
  }
  Task<void> all = AskAll(&questions, ShowOne());
  co_await all;
  co_return questions;
}

// A session that has lost something learns that when it reads next at its level.
void SessionCall::Raise(const Questions& questions) {
  for (const Question& question : questions) {
    if (question.shown && !question.lost) session_.Raise(question.partition, *question.shown);
  }
}

// A master has applied the record that begins its epoch before it serves.
Task<std::map<uint32_t, Status>> SessionCall::Note(std::vector<uint32_t> ids) {
  std::map<uint32_t, Status> refused;
  if (!backend_.cluster_id) co_return refused;
  for (uint32_t id : ids) hlc_ = std::max(hlc_, backend_.HlcOf(id));
  const Questions questions = co_await AskShown(std::move(ids));
  for (const Question& question : questions) {
    const std::optional<SessionPoint>&carried = question.carried, &shown = question.shown;
    if (any_replica_ || !carried || !shown || shown->epoch >= carried->epoch) continue;
    refused[question.partition] = Error(
        Code::kNotMaster,
        "partition {}: the master here is of epoch {}, and the session has seen epoch {}: another one has taken over; "
        "ask another node",
        question.partition, shown->epoch, carried->epoch);
  }
  Raise(questions);
  co_return refused;
}

Task<void> SessionCall::NoteWrite(uint32_t id, SessionPoint end) {
  if (!backend_.cluster_id) co_return;
  hlc_ = std::max(hlc_, backend_.HlcOf(id));
  const std::optional<SessionPoint> carried = session_.At(id);
  if (carried && carried->epoch < end.epoch) {
    // Rare: the master has changed since.
    std::vector<uint32_t> ids{id};
    Raise(co_await AskShown(std::move(ids)));
    if (session_.At(id) == carried) co_return;
  }
  session_.Raise(id, end);
}

Task<Result<std::vector<Mastership>>> CheckLeases(KvBackend* backend, Reactor* reactor, std::vector<uint32_t> ids) {
  struct OnReactor {
    static Task<Status> Run(const KvBackend* there, const std::vector<uint32_t>* all, std::vector<Mastership>* out) {
      for (size_t i = 0; i < all->size(); ++i) {
        const uint32_t id = (*all)[i];
        if (!there->IsLocal(id)) continue;
        CO_ASSIGN_OR_RETURN((*out)[i], there->read_gate->Begin(id));
        CO_RETURN_IF_ERROR(there->read_gate->Check(id, (*out)[i]));
      }
      co_return Status();
    }
  };
  std::vector<Mastership> found(ids.size(), Mastership{KnownMap::kAloneEpoch, 0});
  if (backend->read_gate == nullptr) co_return found;
  std::vector<bool> wanted(backend->peers.size());
  for (uint32_t id : ids) wanted[backend->store->ReactorOf(id)] = true;
  for (uint32_t r = 0; r < wanted.size(); ++r) {
    if (!wanted[r]) continue;
    const KvBackend* there = backend->peers[r];
    Status status;
    if (r == backend->reactor) {
      status = co_await OnReactor::Run(there, &ids, &found);
    } else {
      auto call = [there, all = &ids, out = &found](Reactor&) { return OnReactor::Run(there, all, out); };
      status = co_await CallOn(*reactor, static_cast<int>(r), std::move(call));
    }
    CO_RETURN_IF_ERROR(status);
  }
  co_return found;
}

void AppendSessionContext(std::string_view session, Version hlc, std::string* out) {
  constexpr std::string_view kHead("\x0c\x00\x0f\x0b\x00\x01", 6);  // field 15: a struct; its field 1: a string
  constexpr std::string_view kTail(
      "\x0a\x00\x03\0\0\0\0\0\0\0\0"  // map_version
      "\0",
      12);
  constexpr std::string_view kHlc("\x0a\x00\x02", 3);
  char length[4], version[8];
  StoreBigEndian32(length, static_cast<uint32_t>(session.size()));
  StoreBigEndian64(version, hlc);
  out->append(kHead).append(length, sizeof(length)).append(session);
  out->append(kHlc).append(version, sizeof(version)).append(kTail);
}

}  // namespace pando
