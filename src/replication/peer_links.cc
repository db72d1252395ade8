#include "src/replication/peer_links.h"

#include <algorithm>
#include <utility>

#include "src/base/address.h"
#include "src/io/timed_wait.h"
#include "src/replication/peer_inbound.h"
#include "src/replication/peer_link.h"

namespace pando::replication {
namespace {

constexpr Nanos kLogIntervalNs = 10 * kSecond;
constexpr Nanos kClosePollNs = kMillisecond;
// How often to look for what is late, for each period of pings.
constexpr Nanos kLooksPerPing = 4;
// A connection from which nothing has come for so many periods of pings is not heard any more.
constexpr Nanos kHeardPings = 2;

}  // namespace

PeerLinks::PeerLinks(Reactor& reactor, PeerOptions options, MemoryBudget* budget, PeerHandler* handler)
    : reactor_(reactor),
      options_(std::move(options)),
      handler_(handler),
      account_(budget),
      protocol_(options_.protocol),
      room_(reactor),
      quiet_(reactor) {
  watch_.links = this;
  watch_.on_fire = [](Timer* t) { static_cast<WatchTimer*>(t)->links->OnWatch(); };
  reactor_.ArmTimer(&watch_, reactor_.NowNs() + options_.ping_period_ns / kLooksPerPing);
}

PeerLinks::~PeerLinks() {
  CHECK(links_.empty() && ending_.empty() && inbound_.empty())
      << "PeerLinks was destroyed before its Close had finished";
  CHECK(!TurnHook::armed);
  reactor_.CancelTimer(&watch_);
}

Result<uint16_t> PeerLinks::Listen(ListenOptions options) {
  options.kind = ListenerKind::kPeer;
  options.reuse_port = false;  // two reactors on one port would get each other's connections
  ASSIGN_OR_RETURN(const uint16_t port, reactor_.Listen(options, this));
  listening_ = true;
  return port;
}

Task<void> PeerLinks::Close() {
  closing_ = true;
  if (std::exchange(listening_, false)) reactor_.StopListening(this);
  while (!links_.empty()) StopLink(std::move(links_.extract(links_.begin()).mapped()));
  for (const auto& inbound : inbound_) inbound->Close();
  room_.NotifyAll();
  co_await tasks_.Drain();
  while (!inbound_.empty()) co_await quiet_.Wait();
  while (room_waiters_ > 0) co_await Sleep(reactor_, kClosePollNs);
  reactor_.CancelTimer(&watch_);
}

// -- links

Status PeerLinks::SetAddresses(std::map<NodeId, std::vector<std::string>> addresses) {
  if (closing_) return {};
  addresses.erase(options_.node);
  std::map<LinkKey, PeerAddress> wanted;
  for (const auto& [node, reactors] : addresses) {
    for (uint32_t reactor = 0; reactor < reactors.size(); ++reactor) {
      if (reactors[reactor].empty()) continue;
      Result<HostPort> parsed = ParseHostPort(reactors[reactor]);
      if (!parsed.ok()) {
        return Error(parsed.code(), "node {}, reactor {}: {}", node, reactor, parsed.status().message());
      }
      wanted[{node, reactor}] = {node, reactor, std::move(parsed->host), parsed->port};
    }
  }
  addresses_ = std::move(addresses);
  for (auto it = links_.begin(); it != links_.end();) {
    const auto same = wanted.find(it->first);
    if (same != wanted.end() && same->second == it->second->address()) {
      wanted.erase(same);
      ++it;
    } else {
      StopLink(std::move(it->second));
      it = links_.erase(it);
    }
  }
  for (const auto& inbound : inbound_) {
    if (inbound->accepted() && !addresses_.contains(inbound->hello().from)) inbound->Close();
  }
  for (auto& [key, address] : wanted) {
    auto link = std::make_unique<PeerLink>(this, std::move(address));
    PeerLink* raw = link.get();
    links_[key] = std::move(link);
    tasks_.Spawn(RunLink(raw));
  }
  return {};
}

void PeerLinks::StopLink(std::unique_ptr<PeerLink> link) {
  link->Stop();
  ending_.push_back(std::move(link));
}

Task<void> PeerLinks::RunLink(PeerLink* link) {
  co_await link->Run();
  std::erase(dirty_, link);
  std::erase_if(ending_, [link](const auto& other) { return other.get() == link; });
}

void PeerLinks::SetProtocol(uint32_t protocol) {
  if (std::exchange(protocol_, protocol) == protocol) return;
  for (const auto& [key, link] : links_) {
    link->Restart(fmt::format("the cluster speaks version {} of the peer protocol now", protocol));
  }
}

void PeerLinks::SawIncarnation(NodeId node, uint64_t incarnation) {
  uint64_t& newest = incarnations_[node];
  newest = std::max(newest, incarnation);
  EndOlder(node, newest);
}

void PeerLinks::EndOlder(NodeId node, uint64_t incarnation) {
  for (auto it = links_.lower_bound({node, 0}); it != links_.end() && it->first.first == node; ++it) {
    it->second->SawIncarnation(incarnation);
  }
  for (const auto& inbound : inbound_) {
    if (!inbound->accepted() || inbound->hello().guard) continue;
    if (inbound->hello().from == node && inbound->hello().incarnation < incarnation) {
      metrics_.replaced_total.Add();
      inbound->Close();
    }
  }
}

uint64_t PeerLinks::NewestIncarnation(NodeId node) const {
  const auto seen = incarnations_.find(node);
  uint64_t newest = seen == incarnations_.end() ? 0 : seen->second;
  for (const auto& inbound : inbound_) {
    if (!inbound->accepted() || inbound->hello().guard || inbound->hello().from != node) continue;
    newest = std::max(newest, inbound->hello().incarnation);
  }
  for (auto it = links_.lower_bound({node, 0}); it != links_.end() && it->first.first == node; ++it) {
    newest = std::max(newest, it->second->incarnation());
  }
  return newest;
}

PeerLink* PeerLinks::Find(NodeId node, uint32_t reactor) const {
  const auto it = links_.find({node, reactor});
  return it == links_.end() ? nullptr : it->second.get();
}

// -- sending

bool PeerLinks::Send(NodeId node, uint32_t reactor, uint32_t partition, const Message& message) {
  PeerLink* link = Find(node, reactor);
  if (link != nullptr && link->Send(partition, message)) return true;
  metrics_.refused_messages_total.Add();
  return false;
}

Task<bool> PeerLinks::UntilRoom(NodeId node, uint32_t reactor) {
  ++room_waiters_;
  while (!closing_) {
    const PeerLink* link = Find(node, reactor);
    if (link == nullptr || !link->up()) {
      --room_waiters_;
      co_return false;
    }
    if (!link->HasRoom()) {
      co_await room_.Wait();
    } else if (const Nanos until_ns = link->no_memory_until_ns(); until_ns > reactor_.NowNs()) {
      co_await WaitUntil(reactor_, room_, until_ns, [this] { return closing_; });
    } else {
      break;
    }
  }
  --room_waiters_;
  co_return !closing_;
}

bool PeerLinks::IsUp(NodeId node, uint32_t reactor) const {
  const PeerLink* link = Find(node, reactor);
  return link != nullptr && link->up();
}

Status PeerLinks::WhyDown(NodeId node, uint32_t reactor) const {
  const PeerLink* link = Find(node, reactor);
  if (link != nullptr) return link->why_down();
  return Error(Code::kNotFound, "the topology has no address for reactor {} of node {}", reactor, node);
}

void PeerLinks::MarkDirty(PeerLink* link) {
  if (std::exchange(link->dirty_, true)) return;
  dirty_.push_back(link);
  reactor_.ArmTurnHook(this);
}

void PeerLinks::OnTurnEnd() {
  for (PeerLink* link : dirty_) {
    link->dirty_ = false;
    link->Flush();
  }
  dirty_.clear();
}

// -- who connects here

Connection* PeerLinks::Filtered(Connection* connection, ByteFilters* filters) {
  if (filters == nullptr) return connection;
  FilterOptions options;
  options.memory = &account_;
  options.metrics = &metrics_.filters;
  options.handshake_limit_ns = options_.hello_limit_ns;
  return AddFilter(reactor_, connection, filters->MakeFilter(reactor_), options);
}

void PeerLinks::OnAccept(Connection* connection) {
  DisplaceStranger();
  auto inbound = std::make_unique<PeerInbound>(this, Filtered(connection, options_.accept_filters));
  inbound->connection_->SetHandler(inbound.get());
  inbound->list_index_ = static_cast<uint32_t>(inbound_.size());
  if (closing_) inbound->Close();
  inbound_.push_back(std::move(inbound));
  CountInbound();
}

// Strangers must not keep the places that the nodes of the cluster need, nor must many of them keep
// a node from being heard: the oldest goes.
void PeerLinks::DisplaceStranger() {
  size_t strangers = 0;
  PeerInbound* oldest = nullptr;
  for (const auto& inbound : inbound_) {
    if (!inbound->stranger()) continue;
    ++strangers;
    if (oldest == nullptr || inbound->since_ns_ < oldest->since_ns_) oldest = inbound.get();
  }
  if (strangers < options_.max_strangers) return;
  metrics_.displaced_total.Add();
  LogLimited(fmt::format("closing {}, which has sent no hello yet: {} others wait to be accepted, which is the limit",
                         oldest->Who(), strangers - 1));
  oldest->Close();
}

HelloReply PeerLinks::Judge(const PeerHello& hello) const {
  HelloReply reply;
  reply.protocol_min = options_.protocol_min;
  reply.protocol_max = options_.protocol_max;
  reply.incarnation = options_.incarnation;
  const auto refuse = [&reply](HelloVerdict verdict, std::string reason) {
    reply.verdict = verdict;
    reply.reason = std::move(reason);
    return reply;
  };
  if (hello.cluster_id != options_.cluster_id) {
    return refuse(HelloVerdict::kOtherCluster,
                  fmt::format("node {} is of cluster {}, but this is node {} of cluster {}", hello.from,
                              hello.cluster_id.ToString(), options_.node, options_.cluster_id.ToString()));
  }
  if (hello.to != options_.node || hello.to_reactor != options_.reactor) {
    return refuse(HelloVerdict::kOtherNode,
                  fmt::format("the hello is for node {}, reactor {}, but this is node {}, reactor {}; check "
                              "the addresses in the topology",
                              hello.to, hello.to_reactor, options_.node, options_.reactor));
  }
  const auto known = addresses_.find(hello.from);
  if (known == addresses_.end()) {
    return refuse(HelloVerdict::kUnknownNode,
                  fmt::format("the topology that node {} sees has no other node {}", options_.node, hello.from));
  }
  const size_t reactors = known->second.empty() ? options_.max_reactors : known->second.size();
  if (hello.from_reactor >= reactors) {
    return refuse(HelloVerdict::kUnknownNode,
                  fmt::format("the topology that node {} sees says that node {} has {} reactors, and no reactor {}",
                              options_.node, hello.from, reactors, hello.from_reactor));
  }
  const auto starts = starts_.find(hello.from);
  if (starts != starts_.end() && starts->second != 0 && hello.incarnation > options_.max_starts_ahead &&
      hello.incarnation - options_.max_starts_ahead > starts->second) {
    return refuse(HelloVerdict::kUnknownNode,
                  fmt::format("the hello is of process {} of node {}, but the topology that node {} sees says that it "
                              "was started {} times",
                              hello.incarnation, hello.from, options_.node, starts->second));
  }
  if (hello.protocol < options_.protocol_min || hello.protocol > options_.protocol_max) {
    return refuse(HelloVerdict::kNoProtocol,
                  fmt::format("node {} wants to speak version {} of the peer protocol (its build speaks {} to {}), but "
                              "the build of node {} speaks {} to {}",
                              hello.from, hello.protocol, hello.protocol_min, hello.protocol_max, options_.node,
                              options_.protocol_min, options_.protocol_max));
  }
  if (const uint64_t newest = NewestIncarnation(hello.from);
      hello.incarnation < newest && options_.newest_process_only) {
    return refuse(HelloVerdict::kOldIncarnation,
                  fmt::format("the hello is of process {} of node {}, but node {} has seen its process {}",
                              hello.incarnation, hello.from, options_.node, newest));
  }
  return reply;
}

bool PeerLinks::IsTaken(const PeerInbound& by) const {
  if (by.hello().guard) return false;
  const Nanos heard_after_ns = reactor_.NowNs() - kHeardPings * options_.ping_period_ns;
  return std::any_of(inbound_.begin(), inbound_.end(), [&](const auto& other) {
    if (!other->accepted() || other->received_ns_ <= heard_after_ns) return false;
    const PeerHello& old = other->hello();
    return !old.guard && old.from == by.hello().from && old.from_reactor == by.hello().from_reactor &&
           old.incarnation == by.hello().incarnation;
  });
}

void PeerLinks::AdmitWaiting() {
  for (const auto& inbound : inbound_) {
    if (inbound->waiting()) inbound->Admit();
  }
}

void PeerLinks::OnAccepted(PeerInbound* accepted) {
  const PeerHello& hello = accepted->hello();
  metrics_.accepted_total.Add();
  CountInbound();
  // A new connection of the same reactor means that the old one is of no use any more, even if its end
  // has not been heard of (LK2).
  for (const auto& other : inbound_) {
    if (other.get() == accepted || !other->accepted()) continue;
    const PeerHello& old = other->hello();
    if (old.from != hello.from || old.guard != hello.guard || old.from_reactor != hello.from_reactor) continue;
    metrics_.replaced_total.Add();
    other->Close();
  }
  if (hello.guard) return;
  EndOlder(hello.from, hello.incarnation);
  for (auto it = links_.lower_bound({hello.from, 0}); it != links_.end() && it->first.first == hello.from; ++it) {
    it->second->RetryNow();
  }
  handler_->OnConnected(hello.from);
}

void PeerLinks::Remove(PeerInbound* inbound) {
  const uint32_t index = inbound->list_index_;
  const std::unique_ptr<PeerInbound> gone = std::move(inbound_[index]);
  if (index + 1 < inbound_.size()) {
    inbound_[index] = std::move(inbound_.back());
    inbound_[index]->list_index_ = index;
  }
  inbound_.pop_back();
  AdmitWaiting();
  CountInbound();
  if (inbound_.empty()) quiet_.NotifyAll();
}

void PeerLinks::CountInbound() {
  int64_t accepted = 0, strangers = 0;
  for (const auto& inbound : inbound_) {
    accepted += inbound->accepted() ? 1 : 0;
    strangers += inbound->stranger() ? 1 : 0;
  }
  metrics_.accepted.Set(accepted);
  metrics_.strangers.Set(strangers);
}

void PeerLinks::OnWatch() {
  const Nanos now_ns = reactor_.NowNs();
  for (const auto& [key, link] : links_) link->Watch(now_ns);
  for (const auto& inbound : inbound_) inbound->Watch(now_ns);
  AdmitWaiting();
  CountInbound();
  metrics_.buffered_bytes.Set(account_.in_use_bytes());
  reactor_.ArmTimer(&watch_, now_ns + options_.ping_period_ns / kLooksPerPing);
}

void PeerLinks::LogLimited(const std::string& message) {
  const Nanos now_ns = reactor_.NowNs();
  if (now_ns < next_log_ns_) {
    ++unlogged_;
    return;
  }
  next_log_ns_ = now_ns + kLogIntervalNs;
  LOG(WARNING) << message << (unlogged_ > 0 ? fmt::format(" ({} more like this were not logged)", unlogged_) : "");
  unlogged_ = 0;
}

}  // namespace pando::replication
