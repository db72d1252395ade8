---------------------------- MODULE Replication ----------------------------
(* One partition: its replicas, their logs and disks, and its record in the topology. Safety of writes only; no
   clock protects them, so there is none here: a campaign may begin at any moment. Leases.tla has the reads.

   A rule of the protocol is broken by putting its name into Off. src/replication/rules.h has the same names in
   brackets.

   A pause, a delay and a lost message are steps that are not taken. A process that is down does nothing; Crash is
   its end and its next start. Every committed record counts as a write that a client was told of. *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS Ids, First,                \* replicas by UUID; the master of epoch 1
          MinIsr, MaxEpoch, MaxWrites, MaxRev, MaxCrash, MaxPend,
          Acts,                      \* what else may happen: "handover", "power", "force", "lie", "commitHere"
          Off

VARIABLES topo,       \* [rev, lin, ep, m, isr, asg, min]: the record; a CAS compares rev
          net,        \* CAS requests that may land at any time, or never
          disk,       \* by replica, outlives the process; see NoDisk
          mem,        \* by replica, of its process; see NoMem
          gone,       \* replicas that take part in nothing any more
          committed,  \* what clients were told of, in this lineage
          bad,        \* two masters committed different records, or a committed one was to be cut
          writes, crashes
vars == <<topo, net, disk, mem, gone, committed, bad, writes, crashes>>

On(rule) == rule \notin Off
Act(act) == act \in Acts
Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b
Upto(log, n) == SubSeq(log, 1, n)
IsPrefix(s, t) == Len(s) <= Len(t) /\ s = Upto(t, Len(s))
Common(s, t) == CHOOSE n \in 0..Min(Len(s), Len(t)) :
                  /\ Upto(s, n) = Upto(t, n)
                  /\ n < Min(Len(s), Len(t)) => s[n + 1] # t[n + 1]

(* log: as the process knows it; dur: so much of it is synced; cm: committed, as known here; prom: the promise;
   lin: the lineage; rem: what the disk still holds of before the last cut, as long as nothing says that it was cut *)
NoDisk == [log |-> <<>>, dur |-> 0, cm |-> 0, prom |-> 0, lin |-> 1, rem |-> <<>>]
(* ep: of its mastership, or the one whose master it is aligned with; kn: the record as it knows it; pd: ISRs that it
   has proposed; ack: what each other has acknowledged in this epoch; cnd, got: the epoch it campaigns for, and who
   has promised it; won: the record that names it as master, if it has not begun to lead yet *)
Nothing == [rev |-> 0, ep |-> 0, isr |-> {}]
Zero == [r \in Ids |-> 0]
NoMem == [leads |-> FALSE, ep |-> 0, kn |-> Nothing, pd |-> {}, ack |-> Zero, cnd |-> 0, got |-> {}, won |-> Nothing]

Running == Ids \ gone
Log(r) == disk[r].log
Leads(r) == r \in Running /\ mem[r].leads
Start(m) == CHOOSE i \in 1..Len(Log(m)) : Log(m)[i] = [ep |-> mem[m].ep, w |-> 0]
WaitSet(m) == mem[m].kn.isr \cup (IF On("pending") THEN UNION mem[m].pd ELSE {})
Knows(m) == mem[m].kn.rev = topo.rev /\ mem[m].ep = topo.ep

Init ==
  LET first == <<[ep |-> 1, w |-> 0]>> IN
  /\ topo = [rev |-> 1, lin |-> 1, ep |-> 1, m |-> First, isr |-> Ids, asg |-> Ids, min |-> MinIsr]
  /\ net = {} /\ gone = {} /\ committed = first /\ bad = FALSE /\ writes = 0 /\ crashes = 0
  /\ disk = [r \in Ids |-> [NoDisk EXCEPT !.log = first, !.dur = 1, !.cm = 1, !.prom = 1]]
  /\ mem = [r \in Ids |-> IF r = First
       THEN [NoMem EXCEPT !.leads = TRUE, !.ep = 1, !.kn = [rev |-> 1, ep |-> 1, isr |-> Ids],
                          !.ack = [s \in Ids |-> IF s = First THEN 0 ELSE 1]]
       ELSE [NoMem EXCEPT !.ep = 1]]

----------------------------------------------------------------------------
(* Writes *)
IsOpen(m) == Leads(m) /\ disk[m].cm >= Start(m)

Write(m) ==
  /\ IsOpen(m) /\ writes < MaxWrites /\ writes' = writes + 1
  /\ disk' = [disk EXCEPT ![m].log = Append(@, [ep |-> mem[m].ep, w |-> writes + 1])]
  /\ UNCHANGED <<topo, net, mem, gone, committed, bad, crashes>>

(* Whatever is appended after a cut says that it was cut (Log::Cut). *)
Remains(r) == IF On("cutStated") THEN <<>> ELSE disk[r].rem
Sync(m) ==
  /\ m \in Running /\ disk[m].dur < Len(Log(m))
  /\ disk' = [disk EXCEPT ![m].dur = Len(Log(m)), ![m].rem = Remains(m)]
  /\ UNCHANGED <<topo, net, mem, gone, committed, bad, writes, crashes>>

Fenced(s, m) == On("fence") /\ disk[s].prom > mem[m].ep
SameLineage(s, m) == On("lineage") => disk[s].lin = disk[m].lin

(* Histories are compared, the follower's tail after the common point is cut, the epoch is stored as promised, and
   then what is common is acknowledged. *)
Align(m, s) ==
  /\ Leads(m) /\ s \in Running \cap topo.asg /\ s # m /\ mem[s].ep < mem[m].ep /\ ~Fenced(s, m) /\ SameLineage(s, m)
  /\ LET c == IF On("chain") THEN Common(Log(s), Log(m)) ELSE Min(Len(Log(s)), Len(Log(m))) IN
     /\ bad' = (bad \/ c < disk[s].cm)
     /\ disk' = [disk EXCEPT ![s].log = Upto(@, c), ![s].dur = c,
                             ![s].rem = IF c < Len(Log(s)) THEN Log(s) ELSE @,
                             ![s].prom = IF On("storeEpoch") THEN Max(@, mem[m].ep) ELSE @]
     /\ mem' = [mem EXCEPT ![s] = [NoMem EXCEPT !.ep = mem[m].ep, !.cnd = mem[s].cnd, !.got = mem[s].got,
                                                !.won = mem[s].won],
                           ![m].ack[s] = c]
  /\ UNCHANGED <<topo, net, gone, committed, writes, crashes>>

(* The next record becomes durable at the follower, which acknowledges it. The master may look at that at any later
   time, also when the follower has promised a higher epoch. *)
Ship(m, s) ==
  /\ Leads(m) /\ s \in Running /\ s # m /\ ~mem[s].leads /\ mem[s].ep = mem[m].ep /\ ~Fenced(s, m)
  /\ SameLineage(s, m) /\ Len(Log(s)) < Len(Log(m))
  /\ LET n == Len(Log(s)) + 1 IN
     /\ disk' = [disk EXCEPT ![s].log = Append(@, Log(m)[n]), ![s].dur = n, ![s].rem = Remains(s)]
     /\ mem' = [mem EXCEPT ![m].ack[s] = n]
  /\ UNCHANGED <<topo, net, gone, committed, bad, writes, crashes>>

Has(m, s, n) == IF s = m THEN On("ownDisk") => disk[m].dur >= n ELSE mem[m].ack[s] >= n
MayCommit(m, n) ==
  /\ n <= Len(Log(m)) /\ (On("epochStart") => n >= Start(m))
  /\ IF On("allOfIsr") THEN \A s \in WaitSet(m) \cup {m} : Has(m, s, n)
     ELSE 2 * Cardinality({s \in WaitSet(m) : Has(m, s, n)}) > Cardinality(WaitSet(m))

(* Who leads in an older lineage may tell clients something that the operator has given up. *)
Commit(m) ==
  /\ Leads(m)
  /\ \E n \in (disk[m].cm + 1)..Len(Log(m)) :
       /\ MayCommit(m, n) /\ ~MayCommit(m, n + 1)
       /\ disk' = [disk EXCEPT ![m].cm = n]
       /\ LET p == Upto(Log(m), n) IN
          IF disk[m].lin < topo.lin THEN UNCHANGED <<committed, bad>>
          ELSE /\ committed' = IF Len(p) > Len(committed) THEN p ELSE committed
               /\ bad' = (bad \/ ~(IsPrefix(p, committed) \/ IsPrefix(committed, p)))
  /\ UNCHANGED <<topo, net, mem, gone, writes, crashes>>

CommitHere(m, s) ==
  /\ Act("commitHere") /\ Leads(m) /\ s \in Running /\ s # m /\ ~mem[s].leads /\ (On("chain") => mem[s].ep = mem[m].ep)
  /\ SameLineage(s, m)
  /\ disk[s].cm < Min(disk[m].cm, Len(Log(s)))
  /\ disk' = [disk EXCEPT ![s].cm = Min(disk[m].cm, Len(Log(s)))]
  /\ UNCHANGED <<topo, net, mem, gone, committed, bad, writes, crashes>>

----------------------------------------------------------------------------
(* The topology *)
Swap(m, kind, ep, master, isr, asg) ==
  [rev |-> topo.rev, kind |-> kind, by |-> m, lin |-> topo.lin, ep |-> ep, m |-> master, isr |-> isr, asg |-> asg,
   min |-> topo.min]

(* A swap lands also when its sender has ended since. *)
Land(c) ==
  /\ c \in net /\ c.rev = topo.rev /\ topo.rev < MaxRev
  /\ topo' = [rev |-> topo.rev + 1, lin |-> c.lin, ep |-> c.ep, m |-> c.m, isr |-> c.isr, asg |-> c.asg, min |-> c.min]
  /\ net' = {}
  /\ mem' = IF c.m \in Running /\ ((c.kind = "win" /\ mem[c.m].cnd = c.ep) \/ c.kind = "hand")
            THEN [mem EXCEPT ![c.m].won = [rev |-> topo.rev + 1, ep |-> c.ep, isr |-> c.isr]] ELSE mem
  /\ UNCHANGED <<disk, gone, committed, bad, writes, crashes>>

Learn(m) ==
  /\ Leads(m) /\ topo.ep = mem[m].ep /\ topo.rev > mem[m].kn.rev
  /\ mem' = [mem EXCEPT ![m].kn = [rev |-> topo.rev, ep |-> topo.ep, isr |-> topo.isr], ![m].pd = {}]
  /\ UNCHANGED <<topo, net, disk, gone, committed, bad, writes, crashes>>

(* The rule is off: what was not answered is taken for failed. *)
Forget(m) ==
  /\ ~On("casUnknown") /\ Leads(m) /\ mem[m].pd # {}
  /\ mem' = [mem EXCEPT ![m].pd = {}]
  /\ UNCHANGED <<topo, net, disk, gone, committed, bad, writes, crashes>>

MayJoin(m, x) == mem[m].ack[x] >= Max(disk[m].cm, IF On("joinStart") THEN Start(m) ELSE 1)

ChangeIsr(m) ==
  /\ Leads(m) /\ Knows(m) /\ Cardinality(mem[m].pd) < MaxPend /\ topo.rev < MaxRev
  /\ \E out \in SUBSET (mem[m].kn.isr \ {m}), in \in SUBSET (topo.asg \ mem[m].kn.isr) :
       LET isr == (mem[m].kn.isr \ out) \cup in IN
       /\ Cardinality(out) <= 1 /\ Cardinality(in) <= 1 /\ (out \cup in) # {} /\ isr \notin mem[m].pd
       /\ \A x \in in : MayJoin(m, x)
       /\ On("minIsr") => Cardinality(isr) >= topo.min
       /\ net' = net \cup {Swap(m, "isr", topo.ep, m, isr, topo.asg)}
       /\ mem' = [mem EXCEPT ![m].pd = @ \cup {isr}, ![m].kn.isr = IF On("casFirst") THEN @ ELSE @ \ out]
  /\ UNCHANGED <<topo, disk, gone, committed, bad, writes, crashes>>

(* The target has everything, and no process has led that epoch before. *)
Handover(m) ==
  /\ Act("handover") /\ IsOpen(m) /\ Knows(m) /\ topo.rev < MaxRev
  /\ \E t \in mem[m].kn.isr \ {m} :
       LET e == Max(Max(disk[m].prom, disk[t].prom), topo.ep) + 1 IN
       /\ mem[m].ack[t] = Len(Log(m)) /\ e <= MaxEpoch
       /\ net' = net \cup {Swap(m, "hand", e, t, topo.isr, topo.asg)}
  /\ UNCHANGED <<topo, mem, disk, gone, committed, bad, writes, crashes>>

(* An operator accepts a loss: the lineage rises and begins with the log of one replica. The others stay assigned, as
   if a hand had written the record, so that only the lineage tells them apart. *)
Force(x) ==
  /\ Act("force") /\ topo.lin = 1 /\ x \in Running /\ topo.ep < MaxEpoch /\ topo.rev < MaxRev
  /\ LET e == topo.ep + 1 IN
     /\ topo' = [rev |-> topo.rev + 1, lin |-> 2, ep |-> e, m |-> x, isr |-> {x}, asg |-> topo.asg, min |-> 1]
     /\ net' = {}
     /\ mem' = IF e > disk[x].prom /\ ~mem[x].leads
               THEN [mem EXCEPT ![x].won = [rev |-> topo.rev + 1, ep |-> e, isr |-> {x}]] ELSE mem
     /\ committed' = Upto(committed, Common(committed, Log(x)))
     /\ disk' = [disk EXCEPT ![x].lin = 2]
  /\ UNCHANGED <<gone, bad, writes, crashes>>

(* A replica of the older lineage that is not what the new one begins with. *)
Discard(s) ==
  /\ On("lineage") /\ s \in Running /\ disk[s].lin < topo.lin /\ s \notin topo.isr
  /\ gone' = gone \cup {s} /\ mem' = [mem EXCEPT ![s] = NoMem]
  /\ UNCHANGED <<topo, net, disk, committed, bad, writes, crashes>>

----------------------------------------------------------------------------
(* Promotion *)
Highest == LET P == {disk[r].prom : r \in Running \cap topo.asg} \cup {topo.ep} IN
           CHOOSE p \in P : \A q \in P : q <= p

Campaign(c) ==
  /\ c \in Running /\ mem[c].won = Nothing /\ (On("inIsr") => c \in topo.isr)
  /\ \E e \in {Max(disk[c].prom, topo.ep) + 1, Highest + 1} :
       /\ e <= MaxEpoch
       /\ disk' = [disk EXCEPT ![c].prom = e]
       /\ mem' = [mem EXCEPT ![c].cnd = e, ![c].got = {c}]
  /\ UNCHANGED <<topo, net, gone, committed, bad, writes, crashes>>

Promise(s, c) ==
  /\ s \in Running \cap topo.asg /\ c \in Running /\ s # c /\ mem[c].cnd > disk[s].prom /\ mem[c].cnd > topo.ep
  /\ disk' = [disk EXCEPT ![s].prom = mem[c].cnd]
  /\ mem' = [mem EXCEPT ![c].got = @ \cup {s}]
  /\ UNCHANGED <<topo, net, gone, committed, bad, writes, crashes>>

(* The ISR without those who did not promise, but not below min_isr. *)
Elect(c) ==
  /\ c \in Running /\ mem[c].cnd > topo.ep /\ topo.rev < MaxRev /\ (On("inIsr") => c \in topo.isr)
  /\ On("quorum") => Cardinality(mem[c].got \cap topo.asg) >= topo.min
  /\ LET yes == (mem[c].got \cap topo.isr) \cup {c} IN
     \E isr \in SUBSET (topo.isr \cup {c}) :
       /\ yes \subseteq isr
       /\ IF Cardinality(yes) >= topo.min \/ ~On("keepMin") THEN isr = yes ELSE Cardinality(isr) = topo.min
       /\ LET swap == Swap(c, "win", mem[c].cnd, c, isr, topo.asg) IN swap \notin net /\ net' = net \cup {swap}
  /\ UNCHANGED <<topo, mem, disk, gone, committed, bad, writes, crashes>>

(* The answer may come late: the record may be another one already. *)
Lead(c) ==
  /\ c \in Running /\ mem[c].won # Nothing
  /\ LET w == mem[c].won IN
     IF w.ep > mem[c].ep /\ w.ep >= disk[c].prom
     THEN /\ disk' = [disk EXCEPT ![c].log = Append(@, [ep |-> w.ep, w |-> 0]), ![c].prom = w.ep]
          /\ mem' = [mem EXCEPT ![c] = [NoMem EXCEPT !.leads = TRUE, !.ep = w.ep, !.kn = w]]
     ELSE mem' = [mem EXCEPT ![c].won = Nothing] /\ UNCHANGED disk
  /\ UNCHANGED <<topo, net, gone, committed, bad, writes, crashes>>

----------------------------------------------------------------------------
(* Faults *)
(* As long as nothing was appended after a cut, a start may find what was cut. If the log did not say that it was
   cut, a start would take the unit of the higher epoch where two contradict each other. *)
Found(r, log) ==
  LET rem == disk[r].rem
      d == Common(rem, log) + 1 IN
  IF rem = <<>> THEN {log}
  ELSE IF On("cutStated") THEN {log, rem}
  ELSE IF d <= Len(rem) /\ (d > Len(log) \/ rem[d].ep > log[d].ep) THEN {rem} ELSE {log}
AfterCrash(r, log) ==
  [disk[r] EXCEPT !.log = log, !.dur = Len(log), !.cm = Min(@, Len(log)), !.rem = IF log = disk[r].rem THEN <<>> ELSE @,
                  !.prom = IF On("durablePromise") THEN @ ELSE 0]
AfterStart(r) ==
  IF ~On("noResume") /\ Leads(r) /\ disk[r].dur >= Start(r) THEN [mem[r] EXCEPT !.pd = {}, !.ack = Zero] ELSE NoMem

Crash(r) ==
  /\ crashes < MaxCrash /\ r \in Running /\ crashes' = crashes + 1 /\ mem[r] # NoMem
  /\ \E log \in UNION {Found(r, l) : l \in {Log(r), Upto(Log(r), disk[r].dur)}} :
       disk' = [disk EXCEPT ![r] = AfterCrash(r, log)]
  /\ mem' = [mem EXCEPT ![r] = AfterStart(r)]
  /\ UNCHANGED <<topo, net, gone, committed, bad, writes>>

PowerLoss ==
  /\ Act("power") /\ crashes < MaxCrash /\ crashes' = crashes + 1 /\ \A r \in Ids : disk[r].rem = <<>>
  /\ disk' = [r \in Ids |-> AfterCrash(r, Upto(Log(r), disk[r].dur))]
  /\ mem' = [r \in Ids |-> AfterStart(r)]
  /\ UNCHANGED <<topo, net, gone, committed, bad, writes>>

(* A disk loses what it had reported as durable. Its node notices (the start counter), or the master does when it
   aligns the replica with what that had acknowledged before: it is condemned. Both end its UUID. *)
Condemn(r) ==
  /\ Act("lie") /\ r \in Running /\ gone = {} /\ ~Leads(r)
  /\ gone' = gone \cup {r} /\ mem' = [mem EXCEPT ![r] = NoMem] /\ disk' = [disk EXCEPT ![r] = NoDisk]
  /\ UNCHANGED <<topo, net, committed, bad, writes, crashes>>
(* The rules are off: an emptied disk, or an old one, goes on under the same UUID. *)
ComeBack(r) ==
  /\ crashes < MaxCrash /\ r \in Running /\ crashes' = crashes + 1 /\ mem' = [mem EXCEPT ![r] = NoMem]
  /\ \/ ~On("newUuid") /\ disk' = [disk EXCEPT ![r] = NoDisk]
     \/ ~On("startCounter")
        /\ disk' = [disk EXCEPT ![r] = [NoDisk EXCEPT !.log = <<[ep |-> 1, w |-> 0]>>, !.dur = 1, !.cm = 1, !.prom = 1]]
  /\ UNCHANGED <<topo, net, gone, committed, bad, writes>>

Next ==
  \/ \E r \in Ids : \/ Write(r) \/ Sync(r) \/ Commit(r) \/ Learn(r) \/ Forget(r) \/ ChangeIsr(r) \/ Handover(r)
                    \/ Force(r) \/ Discard(r) \/ Campaign(r) \/ Elect(r) \/ Lead(r) \/ Crash(r) \/ Condemn(r) \/ ComeBack(r)
  \/ \E r, s \in Ids : Align(r, s) \/ Ship(r, s) \/ CommitHere(r, s) \/ Promise(r, s)
  \/ \E c \in net : Land(c)
  \/ PowerLoss
Spec == Init /\ [][Next]_vars

----------------------------------------------------------------------------
(* The numbers are those of docs/INVARIANTS.md. *)
Current(r) == r \in Running /\ disk[r].lin = topo.lin
I1_OneMasterPerEpoch == \A a, b \in Ids : Leads(a) /\ Leads(b) /\ mem[a].ep = mem[b].ep => a = b
I2_WaitsForIsr == \A m \in Ids : Leads(m) /\ mem[m].ep = topo.ep => topo.isr \subseteq mem[m].kn.isr \cup UNION mem[m].pd
I3_AckedOnIsr == \A r \in topo.isr : Current(r) => IsPrefix(committed, Log(r))
NoLoss == \A m \in Ids : Leads(m) /\ mem[m].ep = topo.ep => IsPrefix(committed, Log(m))
I4_SameIdSamePast == \A r, s \in Running : \A i \in 1..Min(Len(Log(r)), Len(Log(s))) :
                       Log(r)[i].ep = Log(s)[i].ep => Upto(Log(r), i) = Upto(Log(s), i)
I5_CommitAgrees == ~bad /\ \A r \in Ids : Current(r) => IsPrefix(Upto(Log(r), disk[r].cm), committed)
I10_MinIsr == Cardinality(topo.isr) >= topo.min
I1_PromiseNeverFalls == [][\A r \in Running : r \in gone' \/ disk'[r].prom >= disk[r].prom]_vars
I5_CommitNeverFalls == [][\A r \in Running : r \in gone' \/ disk'[r].cm >= disk[r].cm]_vars
Symmetry == Permutations(Ids \ {First})
=============================================================================
