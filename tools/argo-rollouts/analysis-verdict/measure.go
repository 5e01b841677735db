package main

import (
	"errors"

	"github.com/argoproj/argo-rollouts/metric"
	"github.com/argoproj/argo-rollouts/metricproviders"
	"github.com/argoproj/argo-rollouts/metricproviders/prometheus"
	"github.com/argoproj/argo-rollouts/metricproviders/webmetric"
	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	analysisutil "github.com/argoproj/argo-rollouts/utils/analysis"
	"github.com/sirupsen/logrus"
)

type measureRequest struct {
	Metric v1alpha1.Metric   `json:"metric"`
	Args   map[string]string `json:"args"`
	// Without one, the address that the metric names is asked.
	Answer *answer `json:"answer"`
}

type measureAnswer struct {
	Phase   string `json:"phase"`
	Value   string `json:"value"`
	Message string `json:"message"`
}

// measure takes one measurement.
func measure(request measureRequest) (measureAnswer, error) {
	resolved, err := analysisutil.ResolveMetricArgs(request.Metric, arguments(request.Args))
	if err != nil {
		return measureAnswer{}, err
	}
	if err := analysisutil.ValidateMetric(*resolved); err != nil {
		return measureAnswer{}, err
	}
	provider, err := providerOf(*resolved, request.Answer)
	if err != nil {
		return measureAnswer{}, err
	}
	taken := provider.Run(&v1alpha1.AnalysisRun{}, *resolved)
	return measureAnswer{Phase: string(taken.Phase), Value: taken.Value, Message: taken.Message}, nil
}

func providerOf(asked v1alpha1.Metric, given *answer) (metric.Provider, error) {
	log := *logrus.WithField("metric", asked.Name)
	if given != nil {
		return given.provider(log, asked)
	}
	switch metricproviders.Type(asked) {
	case prometheus.ProviderType, webmetric.ProviderType:
		return (&metricproviders.ProviderFactory{}).NewProvider(log, "", asked)
	default:
		return nil, errors.New("only Prometheus and web metrics are asked for real")
	}
}

func arguments(values map[string]string) []v1alpha1.Argument {
	args := []v1alpha1.Argument{}
	for name, value := range values {
		args = append(args, v1alpha1.Argument{Name: name, Value: &value})
	}
	return args
}
