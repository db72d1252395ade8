// Rules: the rules of the protocol, by name. All of them hold in production. The simulations switch
// them off one by one, and must notice (tests/sim/replication_core_test.cc, replicated_nodes_test.cc). The
// names in brackets are those of the TLA+ models.
//
// Threads: plain values.
#pragma once

namespace pando::replication {

struct Rules {
  // -- commit
  bool commit_needs_every_member = true;  // not just a majority of the ISR [allOfIsr]
  bool commit_from_epoch_start = true;    // never earlier epochs alone [epochStart]
  bool opens_when_applied = true;         // what is committed but not applied cannot be read yet
  bool own_disk_counts = true;            // the master's own record must be durable [ownDisk]
  // -- acknowledgements
  bool ack_after_sync = true;        // what was only received is not acknowledged
  bool ack_after_alignment = true;   // nor what was not compared with the master's log [chain]
  bool count_own_epoch_only = true;  // an acknowledgement of an older epoch does not count
  bool fence_appends = true;         // nothing of an epoch below the promise is taken [fence]
  bool unit_is_its_epoch = true;     // at its LSN, a unit of another epoch ends the tail that is here
  // -- the topology
  bool shrink_keeps_min_isr = true;         // [minIsr]
  bool promotion_keeps_min_isr = true;      // [keepMin]
  bool shrink_counts_after_cas = true;      // the old set counts until then [casFirst]
  bool joiner_counts_before_cas = true;     // commit waits for proposed sets too [pending]
  bool join_from_epoch_start = true;        // not at the known commit LSN [joinStart]
  bool absent_op_id_proves_nothing = true;  // no answer is not a failure [casUnknown]
  // -- promotion
  bool start_ends_mastership = true;     // a started process wins a new epoch first [noResume]
  bool promises_are_durable = true;      // [durablePromise]
  bool followed_epoch_is_stored = true;  // [storeEpoch]
  bool promotion_needs_promises = true;  // of min_isr assigned replicas [quorum]
  bool promotes_member = true;           // of the ISR only [inIsr]
  // -- leases
  bool lease_by_fresh_clock = true;      // not by the time of the turn [freshClock]
  bool lease_from_send_time = true;      // [sendTime]
  bool heartbeat_names_epoch = true;     // an acknowledgement is of an epoch [ackUntilPromise]
  bool grant_runs_out_first = true;      // [grantRunsOut]
  bool wait_after_start = true;          // [waitAfterStart]
  bool notice_names_incarnation = true;  // [noticeIncarnation]
  bool resign_names_epoch = true;        // a resignation says nothing of later epochs
  bool freshness_needs_lease = true;     // a time is echoed under a lease only
  // -- handover
  bool handover_waits_until_level = true;
  bool handover_gives_up_lease = true;     // before the CAS [giveUp]
  bool handover_waits_for_outcome = true;  // no answer is not a failure [casUnknown of the leases]
  bool handover_target_is_new = true;      // a process begins no epoch that an earlier one may have led
  // -- splits
  bool retire_gives_up_lease = true;     // before the CAS
  bool retire_waits_for_outcome = true;  // no answer is not a failure
  bool retire_waits_until_level = true;  // nothing is on its way
  bool retire_needs_split = true;        // an abort and a retirement exclude each other
  bool retired_is_final = true;          // nobody leads a partition that is retired
  bool half_waits_until_open = true;     // it serves nobody before
  // -- disks and loss
  bool stalled_disk_resigns = true;
  bool lost_disk_is_condemned = true;
  bool lineage_is_checked = true;
  bool force_names_new_replicas = true;  // nobody of an older lineage can follow the new one
  bool session_names_epoch = true;       // an LSN says nothing without its epoch
  bool session_finds_master = true;      // no master takes a write of a session that has seen a later one
  // -- starts
  bool apply_to_watermark_only = true;  // recovery applies what is known to be committed
  bool identity_is_judged = true;       // JudgeDirectory [newUuid, startCounter]
  // -- what the shell does for the core (hosted_replica.h, peer_links.h)
  bool reads_ask_for_lease = true;         // a read is answered only if the lease holds after it
  bool durable_is_synced = true;           // a follower calls durable only what is
  bool apply_waits_for_commit = true;      // the partition is told what the core has committed, and no more
  bool stored_promise_is_stored = true;    // the core is told so after the sync
  bool hello_is_of_newest_process = true;  // a node's older processes are not heard
};

}  // namespace pando::replication
