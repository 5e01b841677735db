package main

import (
	"context"
	"time"

	"github.com/argoproj/argo-rollouts/metric"
	"github.com/argoproj/argo-rollouts/metricproviders/job"
	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	"github.com/sirupsen/logrus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
)

// givenJobs ends the Jobs that an analysis makes as the answers say.
type givenJobs struct {
	now     func() time.Time
	client  kubernetes.Interface
	seen    cache.Indexer
	running []runningJob
}

type runningJob struct {
	job  *batchv1.Job
	ends time.Time
	as   string
}

func newGivenJobs(now func() time.Time) *givenJobs {
	return &givenJobs{
		now:    now,
		client: fake.NewClientset(),
		seen:   cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}),
	}
}

func (g *givenJobs) provider(log logrus.Entry, said answer) metric.Provider {
	lister := batchlisters.NewJobLister(g.seen)
	return jobProvider{job.NewJobProvider(log, g.client, lister, "", false), g, said}
}

// due says when the next Job ends: the controller looks at each that does.
func (g *givenJobs) due() *time.Time {
	var found *time.Time
	for i := range g.running {
		if g.running[i].as != "" {
			found = earliest(found, &g.running[i].ends)
		}
	}
	return found
}

func (g *givenJobs) end() {
	still := []runningJob{}
	for _, one := range g.running {
		if one.as == "" || g.now().Before(one.ends) {
			still = append(still, one)
			continue
		}
		one.job.Status.Conditions = []batchv1.JobCondition{
			{Type: batchv1.JobConditionType(one.as), Status: corev1.ConditionTrue},
		}
	}
	g.running = still
}

type jobProvider struct {
	metric.Provider
	jobs *givenJobs
	said answer
}

func (p jobProvider) Run(run *v1alpha1.AnalysisRun, asked v1alpha1.Metric) v1alpha1.Measurement {
	taken := p.Provider.Run(run, asked)
	if taken.Phase != v1alpha1.AnalysisPhaseRunning {
		return taken
	}
	made, err := p.jobs.client.BatchV1().Jobs(run.Namespace).
		Get(context.Background(), taken.Metadata[job.JobNameKey], metav1.GetOptions{})
	if err != nil {
		panic(err) // it has just been made
	}
	if err := p.jobs.seen.Add(made); err != nil {
		panic(err)
	}
	ends := p.jobs.now().Add(time.Duration(p.said.Seconds * float64(time.Second)))
	p.jobs.running = append(p.jobs.running, runningJob{job: made, ends: ends, as: p.said.Job})
	return taken
}

func (p jobProvider) Resume(
	run *v1alpha1.AnalysisRun, asked v1alpha1.Metric, begun v1alpha1.Measurement,
) v1alpha1.Measurement {
	p.jobs.end()
	return p.Provider.Resume(run, asked, begun)
}
