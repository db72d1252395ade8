// RandomMessage: any message between replicas, with random fields that make sense.
//
// Threads: a pure function.
#pragma once

#include <string>

#include "src/replication/messages.h"
#include "tests/support/sim_random.h"

namespace pando::replication {

// All that the peer protocol carries; a death notice is no message of a replica.
inline constexpr size_t kMessageKinds = std::variant_size_v<decltype(Message::body)> - 1;

inline constexpr size_t kAppendKind = 4;

inline HistoryPoint RandomPoint(SimRandom& random) { return {random.Below(9), random.Next(), random.Next()}; }

// REQUIRES: kind < kMessageKinds
inline Message RandomMessage(SimRandom& random, size_t kind) {
  Message message;
  message.from = {random.Next(), 1 + random.Below(1000)};
  message.to = {random.Next(), 2000 + random.Below(1000)};
  const Epoch epoch = 1 + random.Next() / 2;
  const auto time = [&random] { return static_cast<Nanos>(random.Next()); };
  switch (kind) {
    case 0: message.body = Heartbeat{epoch, random.Next(), time(), random.Next(), time(), random.Next()}; break;
    case 1: message.body = HeartbeatAck{epoch, random.Next(), time(), random.Next(), time(), random.Chance(0.5)}; break;
    case 2: message.body = AlignRequest{epoch, random.Next()}; break;
    case 3: {
      AlignReply reply;
      reply.epoch = epoch;
      reply.incarnation = random.Next();
      reply.number = random.Next();
      reply.log_end = RandomPoint(random);
      reply.committed = RandomPoint(random);
      reply.more = random.Chance(0.5);
      if (random.Chance(0.5)) reply.refused = random.Next();
      reply.ends.resize(random.Below(kMaxNamedEnds + 1));
      for (HistoryPoint& end : reply.ends) end = RandomPoint(random);
      message.body = std::move(reply);
      break;
    }
    case kAppendKind: {
      Append append;
      append.epoch = epoch;
      append.after = RandomPoint(random);
      append.units.resize(random.Below(200));
      for (char& c : append.units) c = static_cast<char>(random.Next());
      append.commit_lsn = random.Next();
      message.body = std::move(append);
      break;
    }
    case 5:
      message.body = AppendAck{epoch,         random.Next(),     RandomPoint(random), random.Next(), random.Chance(0.5),
                               random.Next(), random.Chance(0.5)};
      break;
    case 6: message.body = Fenced{epoch, random.Next()}; break;
    case 7: message.body = PromiseRequest{epoch, random.Next()}; break;
    case 8:
      message.body = PromiseReply{epoch,         random.Chance(0.5),  random.Next(),
                                  random.Next(), RandomPoint(random), random.Chance(0.5)};
      break;
    case 9: message.body = CampaignNow{epoch}; break;
    case 10: message.body = Resign{epoch, random.Next(), random.Next()}; break;
    case 11: message.body = Condemn{epoch, random.Next()}; break;
    case 12: message.body = InstallOffer{epoch, random.Next()}; break;
    default: LOG(FATAL) << "there is no kind " << kind;
  }
  return message;
}

}  // namespace pando::replication
