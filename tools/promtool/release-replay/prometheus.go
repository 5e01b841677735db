package main

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/tsdb"
)

// The moment at which all releases begin.
const startSecond = 1_700_000_100

func moment(second int) time.Time { return time.Unix(int64(startSecond+second), 0).UTC() }

// server is Prometheus without its HTTP: storage, engine, and the rules, evaluated in simulated time.
type server struct {
	folder string
	db     *tsdb.DB
	engine *promql.Engine
	groups []*rules.Group
	// The names of all series and alerts that somebody reads.
	read map[string]bool
}

func openServer(files, queries []string) (*server, error) {
	read, err := whatIsRead(files, queries)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "release-replay")
	if err != nil {
		return nil, err
	}
	options := tsdb.DefaultOptions()
	options.WALSegmentSize = -1
	options.IsolationDisabled = true
	// Each look at the newest sample walks through its chunk from the first.
	options.SamplesPerChunk = 30
	day := int64(10 * 24 * time.Hour / time.Millisecond)
	options.MinBlockDuration, options.MaxBlockDuration, options.RetentionDuration = day, day, 0
	db, err := tsdb.Open(folder, promslog.NewNopLogger(), nil, options, nil)
	if err != nil {
		return nil, err
	}
	db.DisableCompactions()
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 500_000_000, Timeout: time.Hour, LookbackDelta: 5 * time.Minute, EnableAtModifier: true,
	})
	s := &server{folder: folder, db: db, engine: engine, read: read}
	none, _ := url.Parse("")
	manager := rules.NewManager(&rules.ManagerOptions{
		ExternalURL: none,
		QueryFunc:   rules.EngineQueryFunc(engine, db),
		NotifyFunc:  func(context.Context, string, ...*rules.Alert) {},
		Context:     context.Background(),
		Appendable:  db,
		Queryable:   db,
		Logger:      promslog.NewNopLogger(),
		GroupLoader: neededRules{names: read},
	})
	for _, file := range files {
		groups, errs := manager.LoadGroups(slotSeconds*time.Second, labels.EmptyLabels(), "", nil, false, file)
		if errs != nil {
			return nil, fmt.Errorf("%s: %v", file, errs[0])
		}
		for _, group := range groups {
			for _, rule := range group.AlertingRules() {
				rule.SetRestored(true)
			}
			s.groups = append(s.groups, group)
		}
	}
	return s, nil
}

func (s *server) close() error {
	err := s.db.Close()
	os.RemoveAll(s.folder)
	return err
}

// thresholds evaluates the file of thresholds once, for the installation that it names.
func (s *server) thresholds(file string) ([]threshold, error) {
	groups, errs := rules.FileLoader{}.Load(file, false)
	if errs != nil {
		return nil, errs[0]
	}
	var found []threshold
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			// Those of jobs have labels of their own, and no version is judged by them.
			if rule.Labels["counterfoil_job"] != "" {
				continue
			}
			value, err := s.query(rule.Expr, 0)
			if err != nil || len(value.Vector) != 1 {
				return nil, fmt.Errorf("%s: %s is no single number", file, rule.Record)
			}
			number, err := strconv.ParseFloat(value.Vector[0], 64)
			if err != nil {
				return nil, err
			}
			found = append(found, threshold{name: rule.Record, value: number})
		}
	}
	return found, nil
}

func (s *server) scrape(releases []*release, second int) error {
	appender := s.db.Appender(context.Background())
	at := moment(second).UnixMilli()
	for _, one := range releases {
		if one.ended {
			continue
		}
		for n := range one.series {
			series := &one.series[n]
			if !series.often && second%seldomSeconds != 0 && second > slotSeconds {
				continue
			}
			value, there := series.at(second)
			if !there {
				continue
			}
			ref, err := appender.Append(series.ref, series.labels, at, value)
			if err != nil {
				return fmt.Errorf("%s: %w", series.labels, err)
			}
			series.ref = ref
		}
	}
	return appender.Commit()
}

func (s *server) evaluate(second int) error {
	for _, group := range s.groups {
		group.Eval(context.Background(), moment(second))
		for _, rule := range group.Rules() {
			if err := rule.LastError(); err != nil {
				return fmt.Errorf("rule %s: %w", rule.Name(), err)
			}
		}
	}
	return nil
}

// firing gives for each installation which alerts fire, as one number that changes when they do.
func (s *server) firing() map[string]uint64 {
	sums := map[string]uint64{}
	for _, group := range s.groups {
		for _, rule := range group.AlertingRules() {
			if rule.ActiveAlertsCount() == 0 {
				continue
			}
			for _, alert := range rule.ActiveAlerts() {
				if alert.State == rules.StateFiring {
					sums[alert.Labels.Get("installation")] += alert.Labels.Hash() | 1
				}
			}
		}
	}
	return sums
}

// answer is what Prometheus says to a query, in the form that analysis-verdict takes.
type answer struct {
	Vector []string `json:"vector,omitempty"`
	Scalar string   `json:"scalar,omitempty"`
	Error  string   `json:"error,omitempty"`
	Empty  bool     `json:"-"`
}

func (a answer) key() string { return strings.Join(a.Vector, ",") + "|" + a.Scalar + "|" + a.Error }

// MarshalJSON says an empty vector, too.
func (a answer) MarshalJSON() ([]byte, error) {
	switch {
	case a.Error != "":
		return fmt.Appendf(nil, `{"error":%q}`, a.Error), nil
	case a.Scalar != "":
		return fmt.Appendf(nil, `{"scalar":%q}`, a.Scalar), nil
	}
	quoted := make([]string, len(a.Vector))
	for n, value := range a.Vector {
		quoted[n] = strconv.Quote(value)
	}
	return fmt.Appendf(nil, `{"vector":[%s]}`, strings.Join(quoted, ",")), nil
}

func (s *server) query(text string, second int) (answer, error) {
	query, err := s.engine.NewInstantQuery(context.Background(), s.db, nil, text, moment(second))
	if err != nil {
		return answer{}, err
	}
	defer query.Close()
	result := query.Exec(context.Background())
	if result.Err != nil {
		return answer{Error: result.Err.Error()}, nil
	}
	switch value := result.Value.(type) {
	case promql.Scalar:
		return answer{Scalar: format(value.V)}, nil
	case promql.Vector:
		found := answer{}
		for _, sample := range value {
			found.Vector = append(found.Vector, format(sample.F))
		}
		return found, nil
	}
	return answer{}, fmt.Errorf("%s answers with a %s", text, parser.DocumentedType(result.Value.Type()))
}

func format(value float64) string {
	switch {
	case math.IsNaN(value):
		return "NaN"
	case math.IsInf(value, 1):
		return "+Inf"
	case math.IsInf(value, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}
