// release-replay lets synthetic releases pass in simulated time, and answers what a real Prometheus with our rules would
// have answered to the queries of the canary's analysis. Its storage, its engine and its rule manager are Prometheus's own;
// what is made up is the traffic, and what goes wrong in it (release.go). It decides nothing.
//
// It reads one JSON request per line and answers each with one line. "begin" names rules, thresholds, queries and releases;
// "advance" sets weights and lets time pass; "end" closes.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
)

type request struct {
	Do string `json:"do"`
	// begin
	Rules      []string          `json:"rules"`
	Thresholds string            `json:"thresholds"`
	Queries    map[string]string `json:"queries"`
	// Those of the gates of the steps: asked only while a release stands at its gate.
	GateQueries map[string]string `json:"gateQueries"`
	Releases    []plan            `json:"releases"`
	// Metrics that cannot but be silent for these releases: the rules that only they read are not evaluated.
	WithoutRulesOf []string `json:"withoutRulesOf"`
	// How often a query is asked although nothing has changed by which it could.
	AskSeconds int `json:"askSeconds"`
	// advance
	Until   int            `json:"until"`
	Weights map[string]int `json:"weights"`
	Ended   []string       `json:"ended"`
	// Which releases stand at a gate, and how far back its reconciliation looks.
	AtGate map[string]int `json:"atGate"`
	// Of which the exporter's evidence is wanted, beside those.
	Judged []string `json:"judged"`
}

type timed struct {
	second int
	answer answer
}

func (t timed) MarshalJSON() ([]byte, error) { return json.Marshal([]any{t.second, t.answer}) }

// evidence is what /gate would have read.
type evidence struct {
	Published int `json:"published"`
	Lost      int `json:"lost"`
	Judged    int `json:"judged"`
	Missing   int `json:"missing"`
	Wrong     int `json:"wrong"`
	// What a reconciliation would find.
	Found int `json:"found"`
}

type response struct {
	Answers map[string]map[string][]timed `json:"answers"`
	Gates   map[string]evidence           `json:"gates"`
	Seconds int                           `json:"seconds"`
	Error   string                        `json:"error,omitempty"`
}

// So long after a gate has opened its queries are asked at each scrape.
const gateSeconds = 600

// So long after its begin all queries of a release are asked at each scrape.
const firstSeconds = 180

type replay struct {
	server      *server
	queries     map[string]string
	gateQueries map[string]string
	askSeconds  int
	releases    []*release
	byID        map[string]*release
	second      int
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 1<<20), 64<<20)
	// Memory is there, and a third of the time would go into collecting it.
	debug.SetGCPercent(400)
	var run *replay
	for lines.Scan() {
		var asked request
		said, err := response{}, json.Unmarshal(lines.Bytes(), &asked)
		if err == nil {
			switch {
			case asked.Do == "begin":
				run, err = begin(asked)
			case run == nil:
				err = fmt.Errorf("%s before begin", asked.Do)
			case asked.Do == "advance":
				said, err = run.advance(asked)
			case asked.Do == "end":
				err = run.server.close()
				run = nil
			default:
				err = fmt.Errorf("no such request: %s", asked.Do)
			}
		}
		if err != nil {
			said.Error = err.Error()
		}
		text, err := json.Marshal(said)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		out.Write(append(text, '\n'))
		out.Flush()
	}
	if run != nil {
		run.server.close()
	}
}

func begin(asked request) (*replay, error) {
	var queries []string
	for _, some := range []map[string]string{asked.Queries, asked.GateQueries} {
		for metric, query := range some {
			if !slices.Contains(asked.WithoutRulesOf, metric) {
				queries = append(queries, query)
			}
		}
	}
	server, err := openServer(asked.Rules, queries)
	if err != nil {
		return nil, err
	}
	thresholds, err := server.thresholds(asked.Thresholds)
	if err != nil {
		return nil, err
	}
	run := &replay{server: server, queries: asked.Queries, gateQueries: asked.GateQueries, askSeconds: asked.AskSeconds, byID: map[string]*release{}}
	for turn, one := range asked.Releases {
		made := newRelease(one, turn)
		made.describe(thresholds, server.read)
		run.releases = append(run.releases, made)
		run.byID[one.ID] = made
	}
	return run, nil
}

func (run *replay) advance(asked request) (response, error) {
	said := response{Answers: map[string]map[string][]timed{}, Gates: map[string]evidence{}}
	for id, weight := range asked.Weights {
		run.byID[id].weight = weight
	}
	for _, id := range asked.Ended {
		run.byID[id].ended = true
	}
	for run.second < asked.Until {
		run.second += slotSeconds
		// A scrape sees what the exporter's collection found a moment ago: the slot before this one.
		if err := run.server.scrape(run.releases, run.second); err != nil {
			return said, err
		}
		for _, one := range run.releases {
			if !one.ended {
				one.happen(run.second)
			}
		}
		if err := run.server.evaluate(run.second); err != nil {
			return said, err
		}
		firing := run.server.firing()
		for _, one := range run.releases {
			if one.ended {
				continue
			}
			if run.isDue(one, firing[one.ID]) {
				if err := run.ask(one, run.queries, said); err != nil {
					return said, err
				}
			}
			_, stands := asked.AtGate[one.ID]
			if stands && !one.atGate {
				// Each gate hears all of its answers.
				for metric := range run.gateQueries {
					delete(one.answers, metric)
				}
			}
			if stands != one.atGate {
				one.atGate, one.gateSince = stands, run.second
			}
			// A gate that opens decides at once; what waits for hours is asked as often as all else.
			if stands && (run.second-one.gateSince <= gateSeconds || run.isTurn(one)) {
				if err := run.ask(one, run.gateQueries, said); err != nil {
					return said, err
				}
			}
		}
	}
	for _, id := range asked.Judged {
		if _, stands := asked.AtGate[id]; !stands {
			found := run.byID[id].gate()
			said.Gates[id] = evidence{found.events, found.lost, found.facts, found.missing, found.wrong, 0}
		}
	}
	for id, seconds := range asked.AtGate {
		found := run.byID[id].gate()
		said.Gates[id] = evidence{found.events, found.lost, found.facts, found.missing, found.wrong, run.byID[id].reconciliation(seconds)}
	}
	said.Seconds = run.second
	return said, nil
}

// isDue says whether an answer may have changed: an alert of the installation, or a source of telemetry that goes. Every so
// often it is asked all the same.
func (run *replay) isDue(one *release, firing uint64) bool {
	changed := firing != one.firing
	one.firing = firing
	// At first each scrape may bring what was not there yet.
	if changed || run.second <= firstSeconds {
		return true
	}
	for _, gone := range []int{one.PodsUnseenAt, one.HotCheckFailsAt, one.ExporterGoneAt} {
		// From the moment it goes until no look back finds it.
		if gone > 0 && run.second >= gone && run.second <= gone+900 {
			return true
		}
	}
	return run.isTurn(one)
}

func (run *replay) isTurn(one *release) bool {
	return (run.second+one.turn*slotSeconds)%run.askSeconds < slotSeconds
}

func (run *replay) ask(one *release, queries map[string]string, said response) error {
	for metric, text := range queries {
		text = strings.ReplaceAll(text, `installation="counterfoil"`, `installation="`+one.ID+`"`)
		text = strings.ReplaceAll(text, "{{args.canary-hash}}", one.canary.hash)
		found, err := run.server.query(text, run.second)
		if err != nil {
			return fmt.Errorf("%s: %w", metric, err)
		}
		if known, there := one.answers[metric]; there && known.key() == found.key() {
			continue
		}
		one.answers[metric] = found
		if said.Answers[one.ID] == nil {
			said.Answers[one.ID] = map[string][]timed{}
		}
		said.Answers[one.ID][metric] = append(said.Answers[one.ID][metric], timed{run.second, found})
	}
	return nil
}
