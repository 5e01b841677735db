package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/argoproj/argo-rollouts/analysis"
	"github.com/argoproj/argo-rollouts/metric"
	"github.com/argoproj/argo-rollouts/metricproviders"
	"github.com/argoproj/argo-rollouts/metricproviders/job"
	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	analysisutil "github.com/argoproj/argo-rollouts/utils/analysis"
	timeutil "github.com/argoproj/argo-rollouts/utils/time"
	"github.com/sirupsen/logrus"
)

// Times are seconds since the analysis began, or since any other time that all of them count from.
type runRequest struct {
	Templates []*v1alpha1.AnalysisTemplate `json:"templates"`
	Args      map[string]string            `json:"args"`
	// Names, or patterns, of metrics whose verdict does not count.
	DryRun []string `json:"dryRun"`
	From   float64  `json:"from"`
	Until  float64  `json:"until"`
	// By the name of the metric: from when on its source says what.
	Answers map[string][]timedAnswer `json:"answers"`
}

type runAnswer struct {
	Phase   string `json:"phase"`
	Message string `json:"message"`
	// None while it still runs.
	EndedAt *float64                `json:"endedAt,omitempty"`
	Metrics map[string]metricAnswer `json:"metrics"`
}

type metricAnswer struct {
	Phase        string `json:"phase"`
	Count        int32  `json:"count"`
	Successful   int32  `json:"successful"`
	Failed       int32  `json:"failed"`
	Error        int32  `json:"error"`
	Inconclusive int32  `json:"inconclusive"`
	DryRun       bool   `json:"dryRun"`
	// Of the last measurement.
	Value string `json:"value"`
}

// Any time does: only distances matter.
var beginning = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A measurement is due only when its time is over, not when it has come.
const moment = time.Millisecond

// run lets an analysis run by the clock of the answers, from one time that something is due to the next.
func run(request runRequest) (runAnswer, error) {
	if len(request.Templates) == 0 {
		return runAnswer{}, errors.New("no templates are given")
	}
	dryRun := []v1alpha1.DryRun{}
	for _, name := range request.DryRun {
		dryRun = append(dryRun, v1alpha1.DryRun{MetricName: name})
	}
	analysisRun, err := analysisutil.NewAnalysisRunFromTemplates(
		request.Templates, nil, arguments(request.Args), dryRun, nil, nil, nil, "run", "", "default")
	if err != nil {
		return runAnswer{}, err
	}
	analysisRun.UID = "run"
	for _, asked := range analysisRun.Spec.Metrics {
		if len(request.Answers[asked.Name]) == 0 {
			return runAnswer{}, fmt.Errorf("no answers are given for metric %s", asked.Name)
		}
	}

	now := at(request.From)
	timeutil.SetNowTimeFunc(func() time.Time { return now })
	defer timeutil.SetNowTimeFunc(time.Now)
	until := at(request.Until)
	jobs := newGivenJobs(func() time.Time { return now })
	controller := newController(func(log logrus.Entry, asked v1alpha1.Metric) (metric.Provider, error) {
		said := answerAt(request.Answers[asked.Name], now)
		if metricproviders.Type(asked) == job.ProviderType {
			return jobs.provider(log, said), nil
		}
		return said.provider(log, asked)
	})
	for {
		analysisRun = controller.reconcile(analysisRun)
		if analysisRun.Status.Phase.Completed() {
			break
		}
		next := earliest(controller.due(now), jobs.due())
		if next == nil || next.After(until) {
			break
		}
		now = later(now, *next).Add(moment)
	}
	return answerOf(analysisRun), nil
}

type timedAnswer struct {
	From float64 `json:"from"`
	answer
}

func answerAt(answers []timedAnswer, now time.Time) answer {
	next := sort.Search(len(answers), func(i int) bool { return at(answers[i].From).After(now) })
	if next == 0 {
		return answer{Error: "nothing is answered yet"}
	}
	return answers[next-1].answer
}

func answerOf(analysisRun *v1alpha1.AnalysisRun) runAnswer {
	status := analysisRun.Status
	told := runAnswer{Phase: string(status.Phase), Message: status.Message, Metrics: map[string]metricAnswer{}}
	if status.CompletedAt != nil {
		seconds := status.CompletedAt.Sub(beginning).Seconds()
		told.EndedAt = &seconds
	}
	for _, result := range status.MetricResults {
		value := ""
		if last := analysisutil.LastMeasurement(analysisRun, result.Name); last != nil {
			value = last.Value
		}
		told.Metrics[result.Name] = metricAnswer{
			Phase:        string(result.Phase),
			Count:        result.Count,
			Successful:   result.Successful,
			Failed:       result.Failed,
			Error:        result.Error,
			Inconclusive: result.Inconclusive,
			DryRun:       result.DryRun,
			Value:        value,
		}
	}
	return told
}

func at(seconds float64) time.Time {
	return beginning.Add(time.Duration(seconds * float64(time.Second)))
}

func later(left, right time.Time) time.Time {
	if left.After(right) {
		return left
	}
	return right
}

func earliest(times ...*time.Time) *time.Time {
	var found *time.Time
	for _, one := range times {
		if one != nil && (found == nil || one.Before(*found)) {
			found = one
		}
	}
	return found
}

// controller is Argo's, as far as an AnalysisRun without secrets needs it.
type controller struct {
	real  *analysis.Controller
	after *time.Duration
}

func (c *controller) reconcile(run *v1alpha1.AnalysisRun) *v1alpha1.AnalysisRun {
	c.after = nil
	return reconcileAnalysisRun(c.real, run)
}

// due says when the controller wants to look again.
func (c *controller) due(now time.Time) *time.Time {
	if c.after == nil {
		return nil
	}
	next := now.Add(*c.after)
	return &next
}

// UnmarshalJSON reads [seconds, answer].
func (t *timedAnswer) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[]any{&t.From, &t.answer})
}
