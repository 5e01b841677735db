package main

import (
	"reflect"
	"time"
	"unsafe"

	"github.com/argoproj/argo-rollouts/analysis"
	"github.com/argoproj/argo-rollouts/metric"
	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	"github.com/argoproj/argo-rollouts/utils/record"
	"github.com/sirupsen/logrus"
)

// Argo keeps its counting rules to itself. They are called all the same: a copy of them would be believed when it is
// wrong. An update that renames what stands here does not link, or stops at the first request.

//go:linkname reconcileAnalysisRun github.com/argoproj/argo-rollouts/analysis.(*Controller).reconcileAnalysisRun
func reconcileAnalysisRun(controller *analysis.Controller, run *v1alpha1.AnalysisRun) *v1alpha1.AnalysisRun

func newController(
	provider func(log logrus.Entry, asked v1alpha1.Metric) (metric.Provider, error),
) *controller {
	made := &controller{real: &analysis.Controller{}}
	set(made.real, "newProvider",
		func(log logrus.Entry, _ string, asked v1alpha1.Metric) (metric.Provider, error) {
			return provider(log, asked)
		})
	set(made.real, "enqueueAnalysisAfter", func(_ any, after time.Duration) { made.after = &after })
	set(made.real, "recorder", record.EventRecorder(silent{}))
	return made
}

func set(target any, field string, value any) {
	found := reflect.ValueOf(target).Elem().FieldByName(field)
	reflect.NewAt(found.Type(), unsafe.Pointer(found.UnsafeAddr())).Elem().Set(reflect.ValueOf(value))
}
