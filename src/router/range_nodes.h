// RangeNodes: what requests for ranges ask of the cluster. RoutedNodes asks the nodes over the connections of the
// router; tests have one of their own.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "gen-cpp/Routing.h"
#include "src/io/task.h"
#include "src/kvapi/kv_requests.h"
#include "src/router/node_calls.h"
#include "src/router/route_keeper.h"
#include "src/router/route_map.h"

namespace pando {

class RangeNodes {
 public:
  // As known now. Whoever suspends looks again.
  virtual const RouteMap& map() const = 0;
  virtual Task<Status> UntilComplete(Nanos deadline_ns) = 0;
  // As those of RouteKeeper.
  virtual NodeId ChooseReplica(const Route& route, NodeId avoid) const = 0;
  virtual void Refresh() = 0;
  virtual uint64_t news() const = 0;
  virtual Task<void> UntilNews(uint64_t seen, Nanos deadline_ns) = 0;
  virtual bool stopping() const = 0;
  // Null: there is none.
  virtual LongWork* long_work() const { return nullptr; }

  // Arguments and reply outlive the task; the reply is fresh. The context's budget is set to what is left.
  virtual Task<NodeAnswer> Scan(NodeId node, api::Routing_scanPartitions_args* args, ScanAnswer* reply,
                                const CallTerms& terms) = 0;
  virtual Task<NodeAnswer> Aggregate(NodeId node, api::Routing_aggregatePartitions_args* args,
                                     api::Routing_aggregatePartitions_result* reply, const CallTerms& terms) = 0;
  virtual Task<NodeAnswer> Sample(NodeId node, api::Routing_samplePartitions_args* args,
                                  api::Routing_samplePartitions_result* reply, const CallTerms& terms) = 0;
  virtual Task<NodeAnswer> Delete(NodeId node, api::Routing_deletePartitions_args* args,
                                  api::Routing_deletePartitions_result* reply, const CallTerms& terms) = 0;
  virtual Task<NodeAnswer> Watch(NodeId node, api::Routing_watchPartitions_args* args,
                                 api::Routing_watchPartitions_result* reply, const CallTerms& terms) = 0;

 protected:
  ~RangeNodes() = default;
};

class RoutedNodes final : public RangeNodes {
 public:
  // `keeper` outlives it.
  explicit RoutedNodes(RouteKeeper* keeper) : keeper_(*keeper) {}

  const RouteMap& map() const override { return keeper_.map(); }
  Task<Status> UntilComplete(Nanos deadline_ns) override { return keeper_.UntilComplete(deadline_ns); }
  NodeId ChooseReplica(const Route& route, NodeId avoid) const override { return keeper_.ChooseReplica(route, avoid); }
  void Refresh() override { keeper_.Refresh(); }
  uint64_t news() const override { return keeper_.news(); }
  Task<void> UntilNews(uint64_t seen, Nanos deadline_ns) override { co_await keeper_.UntilNews(seen, deadline_ns); }
  bool stopping() const override { return keeper_.stopping(); }
  LongWork* long_work() const override { return keeper_.long_work(); }

  Task<NodeAnswer> Scan(NodeId node, api::Routing_scanPartitions_args* args, ScanAnswer* reply,
                        const CallTerms& terms) override {
    const std::shared_ptr<Upstream> upstream = keeper_.NodeOf(node);
    // It would read the rows of all slices.
    if (args->request.scan.slices != 0 && upstream != nullptr && upstream->up() && !upstream->reads_slices()) {
      return Refuse(fmt::format("{} cannot read slices: it is of an older version", upstream->address()), reply);
    }
    return Call("scanPartitions", node, args, reply, terms);
  }
  Task<NodeAnswer> Aggregate(NodeId node, api::Routing_aggregatePartitions_args* args,
                             api::Routing_aggregatePartitions_result* reply, const CallTerms& terms) override {
    return Call("aggregatePartitions", node, args, reply, terms);
  }
  Task<NodeAnswer> Sample(NodeId node, api::Routing_samplePartitions_args* args,
                          api::Routing_samplePartitions_result* reply, const CallTerms& terms) override {
    return Call("samplePartitions", node, args, reply, terms);
  }
  Task<NodeAnswer> Delete(NodeId node, api::Routing_deletePartitions_args* args,
                          api::Routing_deletePartitions_result* reply, const CallTerms& terms) override {
    return Call("deletePartitions", node, args, reply, terms, /*is_write=*/true);
  }
  Task<NodeAnswer> Watch(NodeId node, api::Routing_watchPartitions_args* args,
                         api::Routing_watchPartitions_result* reply, const CallTerms& terms) override {
    return Call("watchPartitions", node, args, reply, terms);
  }

 private:
  template <typename Reply>
  static Task<NodeAnswer> Refuse(std::string why, Reply* reply) {
    SetError(reply, MakeError(ApiCode::kBadRequest, std::move(why)));
    co_return NodeAnswer{Status(), true};
  }
  // All of these may be made again: a node that does not lead one of its partitions any more need not answer.
  template <typename Args, typename Reply>
  Task<NodeAnswer> Call(std::string method, NodeId node, Args* args, Reply* reply, const CallTerms& terms,
                        bool is_write = false) {
    std::function<bool(const RouteMap&)> outdated;
    if (ToReadLevel(args->context) == ReadLevel::kLinearizable) {
      outdated = [node, args](const RouteMap& map) {
        const auto moved = [&](int32_t partition) {
          const Route* route = map.Find(static_cast<uint32_t>(partition));
          return route == nullptr || route->master != node;
        };
        if constexpr (requires { args->request.positions; }) {
          return std::any_of(args->request.positions.begin(), args->request.positions.end(),
                             [&](const api::PartitionPosition& position) { return moved(position.partition); });
        } else {
          return std::any_of(args->request.partitions.begin(), args->request.partitions.end(), moved);
        }
      };
    }
    return CallNode(&keeper_, keeper_.NodeOf(node), CallKind::kLong, std::move(method), args, reply, terms,
                    std::move(outdated), is_write);
  }

  RouteKeeper& keeper_;
};

}  // namespace pando
