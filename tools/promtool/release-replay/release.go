package main

import (
	"math"
	"math/rand/v2"
)

// Everything happens in slots of so many seconds: scrape, evaluation of the rules and collections have this interval.
const slotSeconds = 15

// The windows of the exporter, in slots before now (jobs/exporter/hot-sql.ts, hot-check.ts): events between 15 minutes
// and the loss delay of 60 s ago, facts between 15 minutes and 20 s ago, which a slot of 15 s makes 30 s.
const (
	windowSlots    = 15 * 60 / slotSeconds
	lossDelaySlots = 60 / slotSeconds
	factDelaySlots = 30 / slotSeconds
	// The newest rows that a collection judges, and that /gate reads (event-queries.ts, gate-queries.ts, hot-sql.ts).
	mostJudged     = 100_000
	mostRead       = 200_000
	mostOfAVersion = 20_000
)

// Normal in any version: one event of 5,000 is slow enough to be sent by replay, and as many bills come late.
const slowShare = 0.0002

// Late bills come within a minute, on average.
var lateSurvives = math.Exp(-slotSeconds / 60.0)

// plan is one release as it is asked for.
type plan struct {
	ID   string `json:"id"`
	Seed uint64 `json:"seed"`
	// Events of the whole service.
	PerSecond float64 `json:"perSecond"`
	// Shares of the canary's events and bills that go wrong: never processed; a wrong bill, of this kind.
	Lost      float64 `json:"lost"`
	WrongBill float64 `json:"wrongBill"`
	Kind      string  `json:"kind"`
	// Crashes of the canary in an hour.
	CrashesPerHour float64 `json:"crashesPerHour"`
	// From this second on the canary's pods are not scraped, the hot check fails, the exporter is gone. 0: never.
	PodsUnseenAt    int `json:"podsUnseenAt"`
	HotCheckFailsAt int `json:"hotCheckFailsAt"`
	ExporterGoneAt  int `json:"exporterGoneAt"`
	// How often event-replay runs; 0: never, one slot: always.
	ReplaySeconds int `json:"replaySeconds"`
	// Whether what replay has sent still counts as lost, as it does; false shows what counting pending rows alone did.
	RepairedIsLost bool `json:"repairedIsLost"`
}

// slot is what one version did within one slot.
type slot struct {
	events, lost, wrong, late int
	// Of the lost ones, those that replay has not sent.
	pending int
}

// version is the canary; of the stable version beside it only the traffic matters, in what a look reads at most.
type version struct {
	hash  string
	slots []slot
}

// release is one synthetic release.
type release struct {
	plan
	random        *rand.Rand
	canary        version
	weight        int
	ended, atGate bool
	gateSince     int
	restarts      int
	// Counters of the canary's own pods.
	processed int
	series    []seriesRef
	answers   map[string]answer
	firing    uint64
	// Staggers what is done now and then.
	turn int
}

func newRelease(p plan, turn int) *release {
	return &release{
		plan:    p,
		random:  rand.New(rand.NewPCG(p.Seed, 0)),
		canary:  version{hash: "c-" + p.ID},
		answers: map[string]answer{},
		turn:    turn,
	}
}

// happen lets one slot pass that ends at this second.
func (r *release) happen(second int) {
	made := r.draw(float64(r.weight) / 100)
	r.canary.slots = append(r.canary.slots, made)
	r.processed += made.events
	r.restarts += r.poisson(r.CrashesPerHour * slotSeconds / 3600)
	r.billLate()
	// Each release's replay has its own minute of the schedule.
	if r.ReplaySeconds > 0 && (second+r.turn*slotSeconds)%r.ReplaySeconds == 0 {
		r.canary.replay()
	}
}

func (r *release) draw(share float64) slot {
	lost, wrong := r.Lost, r.WrongBill
	mean := r.PerSecond * slotSeconds * share
	made := slot{lost: r.poisson(mean * (lost + slowShare)), wrong: r.poisson(mean * wrong), late: r.poisson(mean * slowShare)}
	made.pending = made.lost
	made.events = made.lost + made.wrong + made.late + r.poisson(mean*math.Max(0, 1-lost-wrong-2*slowShare))
	return made
}

func (r *release) billLate() {
	for at := max(0, len(r.canary.slots)-windowSlots); at < len(r.canary.slots); at++ {
		still := 0
		for range r.canary.slots[at].late {
			if r.random.Float64() < lateSurvives {
				still++
			}
		}
		r.canary.slots[at].late = still
	}
}

// replay sends what is pending and older than the grace of 60 s.
func (v *version) replay() {
	for at := max(0, len(v.slots)-windowSlots); at < len(v.slots)-lossDelaySlots; at++ {
		v.slots[at].pending = 0
	}
}

// counts are what a look at a window of one version finds.
type counts struct {
	events, lost, facts, missing, wrong int
}

// hot is what the hot check finds of the canary: the last minutes, or less where the service writes more than is judged.
func (r *release) hot() counts {
	most := windowSlots
	if perSlot := r.PerSecond * slotSeconds; perSlot > 0 {
		most = max(1, int(math.Min(float64(windowSlots), mostJudged/perSlot)))
	}
	return r.look(min(windowSlots, lossDelaySlots+most), min(windowSlots, factDelaySlots+most))
}

// gate is what /gate finds of the canary since the release began.
func (r *release) gate() counts {
	all := len(r.canary.slots)
	if perSlot := r.PerSecond * slotSeconds; perSlot > 0 {
		all = int(math.Min(float64(all), mostRead/perSlot))
	}
	facts := factDelaySlots
	for judged := 0; facts < all && judged < mostOfAVersion; facts++ {
		judged += r.canary.slots[len(r.canary.slots)-1-facts].events
	}
	return r.look(all, facts)
}

// reconciliation is what the job finds of the canary within so many seconds: bills that stay wrong, and those that wait for
// replay for longer than its grace of ten minutes.
func (r *release) reconciliation(seconds int) int {
	found := 0
	for at := max(0, len(r.canary.slots)-seconds/slotSeconds); at < len(r.canary.slots); at++ {
		found += r.canary.slots[at].wrong
		if at < len(r.canary.slots)-600/slotSeconds {
			found += r.canary.slots[at].pending
		}
	}
	return found
}

func (r *release) look(events, facts int) counts {
	var found counts
	slots := r.canary.slots
	end := len(slots)
	for at := max(0, end-events); at < end-lossDelaySlots; at++ {
		one := &slots[at]
		found.events += one.events
		if r.RepairedIsLost {
			found.lost += one.lost
		} else {
			found.lost += one.pending
		}
	}
	for at := max(0, end-facts); at < end-factDelaySlots; at++ {
		one := &slots[at]
		found.facts += one.events
		found.missing += one.late + one.pending
		found.wrong += one.wrong
	}
	return found
}

// poisson draws a number with this mean; above 50 by the normal distribution, which is as good there.
func (r *release) poisson(mean float64) int {
	if mean <= 0 {
		return 0
	}
	if mean > 50 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*r.random.NormFloat64())))
	}
	limit, product, n := math.Exp(-mean), r.random.Float64(), 0
	for product > limit {
		product *= r.random.Float64()
		n++
	}
	return n
}
