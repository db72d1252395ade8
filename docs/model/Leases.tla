------------------------------- MODULE Leases -------------------------------
(* Leased reads of one partition, with a clock for each node. What writes need is taken from Replication.tla: a new
   master knows every write that a client was told of, and an old one commits nothing once a member of its ISR has
   promised.

   All clocks tick together, except that they may miss Slip ticks in all. D is the lease, G what a grant binds: that G
   is at least D + Slip stands for 1.03 D + 50 ms. A pause is a step that is not taken. *)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS Nodes, First, MinIsr, D, G, Slip, MaxTime, MaxEpoch, MaxBeats, MaxCrash, MaxWrites,
          Acts,     \* what else may happen: "handover", "notice", "resign", "shortcut", "join"
          Off
VARIABLES clock, slip,   \* clocks, and how many ticks may still be missed
          topo, before,  \* the record, and earlier ones
          node,          \* see Init
          swap,          \* the swap of a handover that may land; epoch 0: none
          sent,          \* heartbeats, their answers, and resignations that may still come
          told,          \* the newest write that a client was told of
          beats, crashes
vars == <<clock, slip, topo, before, node, swap, sent, told, beats, crashes>>

On(rule) == rule \notin Off
Act(act) == act \in Acts
Max(a, b) == IF a > b THEN a ELSE b
Zero == [s \in Nodes |-> 0]

(* ep: epoch that it leads or follows; val: newest write it knows to be committed; prom: its promise, durable;
   grant, to, toInc, toEp: no promise before that time of its clock, and the process and epoch that it granted to;
   lease: by follower, end of the lease that its answers give; cnd, got: its campaign; gave: it hands over and uses no
   lease; reads: a read has begun that lacks a write which a client was told of; turn: the clock as of this turn *)
Init ==
  /\ clock = [r \in Nodes |-> 0] /\ slip = Slip /\ sent = {} /\ told = 0 /\ beats = 0 /\ crashes = 0
  /\ swap = [rev |-> 0, ep |-> 0, m |-> First]
  /\ topo = [rev |-> 1, ep |-> 1, m |-> First, isr |-> Nodes] /\ before = {}
  /\ node = [r \in Nodes |-> [leads |-> r = First, ep |-> 1, isr |-> Nodes, val |-> 0, prom |-> 1, inc |-> 0,
                              grant |-> 0, to |-> r, toInc |-> 0, toEp |-> 0, lease |-> Zero, cnd |-> 0, got |-> {},
                              gave |-> FALSE, reads |-> FALSE, turn |-> 0]]
(* A process does not know whom the one before it has granted to. *)
Started(r) == [node[r] EXCEPT !.leads = FALSE, !.grant = IF On("waitAfterStart") THEN clock[r] + G ELSE 0, !.to = r,
                              !.lease = Zero, !.reads = FALSE, !.cnd = 0, !.got = {}, !.gave = FALSE, !.inc = @ + 1]

Tick ==
  /\ \E late \in {{}} \cup {{r} : r \in Nodes} :
       /\ Cardinality(late) <= slip /\ slip' = slip - Cardinality(late)
       /\ clock' = [r \in Nodes |-> IF r \in late THEN clock[r] ELSE clock[r] + 1]
  /\ \A r \in Nodes : clock[r] < MaxTime
  /\ UNCHANGED <<topo, before, node, swap, sent, told, beats, crashes>>

----------------------------------------------------------------------------
(* Heartbeats *)
Beat(m, s) ==
  /\ node[m].leads /\ s # m /\ beats < MaxBeats /\ beats' = beats + 1
  /\ sent' = sent \cup {[kind |-> "beat", from |-> m, to |-> s, ep |-> node[m].ep, at |-> clock[m], inc |-> node[m].inc]}
  /\ UNCHANGED <<clock, slip, topo, before, node, swap, told, crashes>>
Hear(b) ==
  LET accepted == (node[b.to].prom <= b.ep \/ ~On("ackUntilPromise")) /\ ~node[b.to].leads IN
  /\ b \in sent /\ b.kind = "beat"
  /\ sent' = (sent \ {b}) \cup (IF accepted THEN {[b EXCEPT !.kind = "answer", !.from = b.to, !.to = b.from]} ELSE {})
  /\ node' = IF accepted THEN [node EXCEPT ![b.to].grant = Max(@, clock[b.to] + G), ![b.to].to = b.from,
                                           ![b.to].toInc = b.inc, ![b.to].toEp = Max(@, b.ep)] ELSE node
  /\ UNCHANGED <<clock, slip, topo, before, swap, told, beats, crashes>>
Heard(b) ==
  LET m == b.to
      from == IF On("sendTime") THEN b.at ELSE clock[m]
      counts == node[m].leads /\ (node[m].ep = b.ep \/ ~On("ackUntilPromise")) /\ node[m].inc = b.inc IN
  /\ b \in sent /\ b.kind = "answer" /\ sent' = sent \ {b}
  /\ node' = IF counts THEN [node EXCEPT ![m].lease[b.from] = Max(@, from + D)] ELSE node
  /\ UNCHANGED <<clock, slip, topo, before, swap, told, beats, crashes>>

----------------------------------------------------------------------------
(* Writes and reads *)
Write(m) ==
  /\ node[m].leads /\ ~node[m].gave /\ told < MaxWrites /\ told' = told + 1
  /\ \A s \in node[m].isr : node[s].prom <= node[m].ep /\ (topo.ep > 1 /\ node[m].ep = topo.ep => node[s].ep = node[m].ep)
  /\ node' = [node EXCEPT ![m].val = told + 1]
  /\ UNCHANGED <<clock, slip, topo, before, swap, sent, beats, crashes>>
Follow(s) ==
  /\ s # topo.m /\ node[topo.m].leads /\ node[topo.m].ep = topo.ep /\ node[s].ep < topo.ep /\ node[s].prom <= topo.ep
  /\ node' = [node EXCEPT ![s].leads = FALSE, ![s].ep = topo.ep, ![s].prom = topo.ep, ![s].val = told,
                          ![s].reads = @ /\ ~On("sameEpoch")]
  /\ UNCHANGED <<clock, slip, topo, before, swap, sent, told, beats, crashes>>
Join(m, s) ==
  /\ Act("join") /\ node[m].leads /\ node[m].ep = topo.ep /\ node[s].ep = topo.ep /\ s \notin topo.isr
  /\ node[s].prom = topo.ep
  /\ topo' = [topo EXCEPT !.rev = @ + 1, !.isr = @ \cup {s}] /\ node' = [node EXCEPT ![m].isr = @ \cup {s}]
  /\ UNCHANGED <<clock, slip, before, swap, sent, told, beats, crashes>>

LeaseEnd(m) == LET ends == {node[m].lease[s] : s \in node[m].isr \ {m}} IN
               IF ends = {} THEN MaxTime + 1 ELSE CHOOSE x \in ends : \A y \in ends : x <= y
Leased(m) == /\ node[m].leads /\ (On("giveUp") => ~node[m].gave)
             /\ (IF On("freshClock") THEN clock[m] ELSE node[m].turn) < LeaseEnd(m)
Turn(m) ==
  /\ ~On("freshClock") /\ node[m].leads /\ node[m].turn # clock[m]
  /\ node' = [node EXCEPT ![m].turn = clock[m]]
  /\ UNCHANGED <<clock, slip, topo, before, swap, sent, told, beats, crashes>>
(* The answer is settled when the read has taken its snapshot and then looked at the lease. *)
Read(m) ==
  /\ node[m].leads /\ ~node[m].reads /\ node[m].val < told
  /\ node' = [node EXCEPT ![m].reads = TRUE]
  /\ UNCHANGED <<clock, slip, topo, before, swap, sent, told, beats, crashes>>

----------------------------------------------------------------------------
(* Promotion *)
(* A guard has seen the process end that the grant is for. Its notice may come at any later time. *)
Noticed(s) == /\ Act("notice") /\ node[s].to # s
              /\ IF On("noticeIncarnation") THEN node[node[s].to].inc > node[s].toInc ELSE node[node[s].to].inc > 0
MayPromise(s, c) == clock[s] >= node[s].grant \/ ~On("grantRunsOut") \/ (s # c /\ node[s].to = c) \/ Noticed(s)

Campaign(c) ==
  LET e == Max(node[c].prom, topo.ep) + 1 IN
  /\ e <= MaxEpoch /\ node[c].cnd <= topo.ep
  /\ \/ MayPromise(c, c)
     \/ /\ Act("shortcut") /\ ~node[c].leads   \* a started process that the record names
        /\ \E v \in (IF On("freshShortcut") THEN {topo} ELSE {topo} \cup before) :
             v.m = c /\ (On("freshShortcut") => node[c].prom <= v.ep)
  /\ node' = [node EXCEPT ![c].prom = e, ![c].cnd = e, ![c].got = {c}]
  /\ UNCHANGED <<clock, slip, topo, before, swap, sent, told, beats, crashes>>
Promise(s, c) ==
  /\ s # c /\ ~node[s].leads /\ node[c].cnd > node[s].prom /\ node[c].cnd > topo.ep /\ MayPromise(s, c)
  /\ node' = [node EXCEPT ![s].prom = node[c].cnd, ![c].got = @ \cup {s}]
  /\ UNCHANGED <<clock, slip, topo, before, swap, sent, told, beats, crashes>>
Elect(c) ==
  LET isr == node[c].got \cap topo.isr IN
  /\ c \in topo.isr /\ node[c].cnd > topo.ep /\ Cardinality(isr) >= MinIsr
  /\ topo' = [rev |-> topo.rev + 1, ep |-> node[c].cnd, m |-> c, isr |-> isr] /\ before' = before \cup {topo}
  /\ node' = [node EXCEPT ![c].leads = TRUE, ![c].ep = node[c].cnd, ![c].isr = isr, ![c].val = told, ![c].lease = Zero,
                          ![c].reads = @ /\ ~On("sameEpoch"), ![c].cnd = 0, ![c].got = {}, ![c].gave = FALSE]
  /\ UNCHANGED <<clock, slip, swap, sent, told, beats, crashes>>

(* A master ends its mastership, and says so to those that may have granted. *)
Resign(m) ==
  /\ Act("resign") /\ node[m].leads
  /\ node' = [node EXCEPT ![m].leads = FALSE, ![m].reads = FALSE, ![m].gave = FALSE, ![m].lease = Zero]
  /\ sent' = sent \cup {[kind |-> "resign", from |-> m, to |-> s, ep |-> node[m].ep, at |-> 0, inc |-> node[m].inc]
                        : s \in node[m].isr \ {m}}
  /\ UNCHANGED <<clock, slip, topo, before, swap, told, beats, crashes>>
Resigned(b) ==
  LET ends == node[b.to].to = b.from /\ node[b.to].toInc = b.inc /\ (b.ep >= node[b.to].toEp \/ ~On("resignEpoch")) IN
  /\ b \in sent /\ b.kind = "resign" /\ sent' = sent \ {b}
  /\ node' = IF ends THEN [node EXCEPT ![b.to].grant = 0] ELSE node
  /\ UNCHANGED <<clock, slip, topo, before, swap, told, beats, crashes>>

(* A handover does not wait for grants. *)
HandOver(m, t) ==
  /\ Act("handover") /\ node[m].leads /\ node[m].ep = topo.ep /\ topo.ep < MaxEpoch /\ t \in topo.isr \ {m} /\ swap.ep = 0
  /\ swap' = [rev |-> topo.rev, ep |-> Max(topo.ep, Max(node[m].prom, node[t].prom)) + 1, m |-> t]
  /\ node' = [node EXCEPT ![m].gave = TRUE]
  /\ UNCHANGED <<clock, slip, topo, before, sent, told, beats, crashes>>
Land ==
  /\ swap.ep > 0 /\ swap.rev = topo.rev /\ swap.ep > node[swap.m].prom /\ swap' = [swap EXCEPT !.ep = 0]
  /\ before' = before \cup {topo}
  /\ topo' = [topo EXCEPT !.rev = @ + 1, !.ep = swap.ep, !.m = swap.m,
                          !.isr = IF Cardinality(@) > MinIsr THEN @ \ {topo.m} ELSE @]
  /\ node' = [node EXCEPT ![swap.m].leads = TRUE, ![swap.m].ep = swap.ep, ![swap.m].prom = swap.ep,
                          ![swap.m].isr = topo'.isr, ![swap.m].val = told, ![swap.m].lease = Zero,
                          ![swap.m].reads = FALSE, ![swap.m].gave = FALSE]
  /\ UNCHANGED <<clock, slip, sent, told, beats, crashes>>
GoOn(m) ==  \* once it is known that the swap has not landed and cannot any more
  /\ node[m].leads /\ node[m].gave /\ (On("casUnknown") => swap.rev # topo.rev /\ node[m].ep = topo.ep)
  /\ node' = [node EXCEPT ![m].gave = FALSE]
  /\ UNCHANGED <<clock, slip, topo, before, swap, sent, told, beats, crashes>>

Crash(r) ==
  /\ crashes < MaxCrash /\ crashes' = crashes + 1 /\ node' = [node EXCEPT ![r] = Started(r)]
  /\ UNCHANGED <<clock, slip, topo, before, swap, sent, told, beats>>

Next ==
  \/ Tick \/ Land
  \/ \E b \in sent : Hear(b) \/ Heard(b) \/ Resigned(b)
  \/ \E r \in Nodes : \/ Write(r) \/ Follow(r) \/ Turn(r) \/ Read(r) \/ Campaign(r) \/ Elect(r) \/ Resign(r) \/ GoOn(r)
                      \/ Crash(r)
  \/ \E r, s \in Nodes : Beat(r, s) \/ Promise(r, s) \/ HandOver(r, s) \/ Join(r, s)
Spec == Init /\ [][Next]_vars

I7_LeasesDoNotOverlap == \A a, b \in Nodes : a # b => ~(Leased(a) /\ Leased(b))
NoStaleRead == \A m \in Nodes : ~(node[m].reads /\ Leased(m))
Symmetry == Permutations(Nodes \ {First})
=============================================================================
