"""The cases of run.py: name -> Case. A mutant breaks one rule; its twin is the mutant of the simulation with the same
rule (the table of sim_replication_core, or of sim_replicated_nodes)."""

from dataclasses import dataclass, field

WRITES = ("I1_OneMasterPerEpoch I1_PromiseNeverFalls I2_WaitsForIsr I3_AckedOnIsr NoLoss I4_SameIdSamePast "
          "I5_CommitAgrees I5_CommitNeverFalls I10_MinIsr")
READS = "NoStaleRead I7_LeasesDoNotOverlap"


@dataclass
class Case:
    module: str                                  # Replication or Leases
    constants: dict = field(default_factory=dict)  # that differ from the .cfg
    violated: str = ""                           # any of these; "": none is
    twin: str = ""                               # the mutant of the simulation
    invariants: str = ""                         # instead of those of the .cfg


def acts(*names):
    return "{" + ", ".join(f'"{name}"' for name in names) + "}"


def writes(epoch=2, write=1, rev=3, crash=0, **more):
    return {"MaxEpoch": epoch, "MaxWrites": write, "MaxRev": rev, "MaxCrash": crash, **more}


def reads(time, beats=2, **more):
    return {"MaxTime": time, "MaxBeats": beats, **more}


TWO = {"Ids": "{a, b}"}

CASES = {
    "core": Case("Replication"),
    "two": Case("Replication", writes(3, 1, 4, 2, **TWO, Acts=acts("power", "commitHere"))),
    "handover": Case("Replication", writes(2, 1, 3, 1, Acts=acts("handover", "power", "commitHere"))),
    "force": Case("Replication", writes(3, 1, 3, 0, Acts=acts("force", "commitHere"))),
    "force-crash": Case("Replication", writes(2, 1, 3, 1, Acts=acts("force"))),
    "condemn": Case("Replication", writes(2, 1, 3, 1, Acts=acts("lie"))),
    "leases": Case("Leases", {"G": 2, "Slip": 1, "MaxTime": 3}),
    "leases-notice": Case("Leases", reads(1, MaxEpoch=3, MaxCrash=1, Acts=acts("notice", "shortcut"))),
    "leases-resign": Case("Leases", reads(1, MaxEpoch=3, Acts=acts("resign"))),
    "leases-handover": Case("Leases", reads(1, Acts=acts("handover"))),
    "leases-join": Case("Leases", reads(1, 1, MaxEpoch=3, Acts=acts("join"))),
}

# rule: (bounds, twin)
WRITE_MUTANTS = {
    "allOfIsr": (writes(), "commit at a majority of the ISR"),
    "ownDisk": (writes(crash=1), "commit without the own disk"),
    "chain": (writes(2, 2, 3, Acts=acts("commitHere")), "acknowledge before alignment"),
    "fence": (writes(crash=1), "take appends of older epochs"),
    "minIsr": (writes(), "shrink below min_isr"),
    "keepMin": (writes(), "promote below min_isr"),
    "casFirst": (writes(), "count a shrink before its CAS"),
    "pending": (writes(), "join without waiting for the pending set"),
    "joinStart": (writes(2, 1, 4), "join at the known commit LSN"),
    "casUnknown": (writes(), "take an absent op_id for a failure"),
    "noResume": (writes(crash=1), "resume mastership after a start"),
    "durablePromise": (writes(crash=1), "keep promises in memory"),
    "storeEpoch": (writes(crash=1), "keep followed epochs in memory"),
    "inIsr": (writes(), "promote outside the ISR"),
    "newUuid": (writes(crash=1), "keep UUIDs whatever the start counter says"),
    "startCounter": (writes(crash=1), "keep UUIDs whatever the start counter says"),
    "cutStated": (writes(3, 1, 4, 1, **TWO), "none: the log of src/wal, and tests of Log::Cut"),
    "lineage": (writes(3, 1, 4, 0, Acts=acts("force", "commitHere")), "the lineage is checked (sim_replication_rules)"),
}
READ_MUTANTS = {
    "grantRunsOut": (reads(0), "promise while a grant holds"),
    "sendTime": ({"G": 2, "Slip": 1, "MaxTime": 4}, "lease from the receive time"),
    "freshClock": (reads(1), "look at the clock of the turn"),
    "waitAfterStart": (reads(0, MaxCrash=2), "promise right after a start"),
    "giveUp": (reads(0, Acts=acts("handover")), "keep the lease during a handover"),
    "casUnknown": (reads(0, Acts=acts("handover")), "go on while a handover may land"),
    "sameEpoch": (reads(0, 1, MaxEpoch=3, Acts=acts("join")), "none: Mastership names epoch and process"),
    "noticeIncarnation": (reads(0, MaxEpoch=3, MaxCrash=1, Acts=acts("notice", "shortcut")),
                          "believe a death notice of another process"),
    "resignEpoch": (reads(0, 3, MaxEpoch=3, Acts=acts("resign")), "resign from later epochs too"),
}
# Rules that these properties do not need within the bounds: a commit needs every member of the ISR.
UNNEEDED = {
    "epochStart": (writes(crash=1), "commit earlier epochs before the epoch's start (RC1)"),
    "quorum": (writes(crash=1), "promote without promises (RC4)"),
}


def off(rule):
    return "{" + f'"{rule}"' + "}"


for rule, (bounds, twin) in WRITE_MUTANTS.items():
    CASES["m-" + rule] = Case("Replication", {**bounds, "Off": off(rule)}, WRITES, twin)
for rule, (bounds, twin) in READ_MUTANTS.items():
    CASES["l-" + rule] = Case("Leases", {**bounds, "Off": off(rule)}, READS, twin)
for rule, (bounds, twin) in UNNEEDED.items():
    CASES["u-" + rule] = Case("Replication", {**bounds, "Off": off(rule)}, "", twin)
CASES["l-drift"] = Case("Leases", {"G": 1, "Slip": 1, "MaxTime": 4}, READS, "none: lease.h has 1.03 D + 50 ms")
