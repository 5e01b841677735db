package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/argoproj/argo-rollouts/metric"
	"github.com/argoproj/argo-rollouts/metricproviders"
	"github.com/argoproj/argo-rollouts/metricproviders/prometheus"
	"github.com/argoproj/argo-rollouts/metricproviders/webmetric"
	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	prometheusapi "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/sirupsen/logrus"
)

// answer is what a metric's source says at one time: exactly one of its kinds.
type answer struct {
	// The samples of an instant vector, as Prometheus writes them: "0.5", "NaN", "+Inf".
	Vector *[]string `json:"vector,omitempty"`
	Scalar *string   `json:"scalar,omitempty"`
	// Why nothing is answered at all.
	Error string `json:"error,omitempty"`
	// Of a web metric. A body that is a JSON string is sent as the text it holds.
	Status int             `json:"status,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
	// Complete or Failed, so many seconds after the Job was made; none while it never ends.
	Job     string  `json:"job,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// provider is Argo's own, in front of a source that says what is given.
func (a answer) provider(log logrus.Entry, asked v1alpha1.Metric) (metric.Provider, error) {
	switch metricproviders.Type(asked) {
	case prometheus.ProviderType:
		return prometheus.NewPrometheusProvider(givenPrometheus{answer: a}, log, asked)
	case webmetric.ProviderType:
		parser, err := webmetric.NewWebMetricJsonParser(asked)
		if err != nil {
			return nil, err
		}
		return webmetric.NewWebMetricProvider(log, &http.Client{Transport: givenWeb{a}}, parser), nil
	default:
		return nil, fmt.Errorf("metric %s: answers can be given to Prometheus, web and Job metrics alone", asked.Name)
	}
}

type givenPrometheus struct {
	prometheusapi.API
	answer answer
}

func (g givenPrometheus) Query(
	context.Context, string, time.Time, ...prometheusapi.Option,
) (model.Value, prometheusapi.Warnings, error) {
	switch {
	case g.answer.Error != "":
		return nil, nil, errors.New(g.answer.Error)
	case g.answer.Scalar != nil:
		value, err := sampleValue(*g.answer.Scalar)
		return &model.Scalar{Value: value}, nil, err
	case g.answer.Vector != nil:
		vector := model.Vector{}
		for _, text := range *g.answer.Vector {
			value, err := sampleValue(text)
			if err != nil {
				return nil, nil, err
			}
			vector = append(vector, &model.Sample{Value: value})
		}
		return vector, nil, nil
	default:
		return nil, nil, errors.New("no answer of Prometheus is given")
	}
}

func sampleValue(text string) (model.SampleValue, error) {
	value, err := strconv.ParseFloat(text, 64)
	return model.SampleValue(value), err
}

type givenWeb struct{ answer answer }

func (g givenWeb) RoundTrip(request *http.Request) (*http.Response, error) {
	if g.answer.Error != "" {
		return nil, errors.New(g.answer.Error)
	}
	if g.answer.Status == 0 {
		return nil, errors.New("no answer of a web server is given")
	}
	body := []byte(g.answer.Body)
	var text string
	if json.Unmarshal(body, &text) == nil {
		body = []byte(text)
	}
	return &http.Response{
		StatusCode: g.answer.Status,
		Body:       io.NopCloser(bytes.NewReader(body)),
		Request:    request,
	}, nil
}
