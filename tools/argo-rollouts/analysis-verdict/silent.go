package main

import (
	"github.com/argoproj/argo-rollouts/utils/record"
	"k8s.io/apimachinery/pkg/runtime"
	clientrecord "k8s.io/client-go/tools/record"
)

// silent tells nobody of Events: the status of the run says the same.
type silent struct{}

func (silent) Eventf(runtime.Object, record.EventOptions, string, ...any) {}

func (silent) Warnf(runtime.Object, record.EventOptions, string, ...any) {}

func (silent) K8sRecorder() clientrecord.EventRecorder { return &clientrecord.FakeRecorder{} }
