package main

import (
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
)

// What changes seldom is written once a minute, well within the five minutes that a query looks back.
const seldomSeconds = 60

type seriesRef struct {
	labels labels.Labels
	ref    storage.SeriesRef
	often  bool
	// The sample at this second; false: none.
	at func(second int) (float64, bool)
}

// thresholds of one installation: the real values, as the rules of thresholds.yaml gave them for the installation that
// the file names. Evaluating them anew for thousands of installations would give the same numbers.
type threshold struct {
	name  string
	value float64
}

// describe lists the series that exporter, pods and thresholds of this release give, as far as anybody reads them.
func (r *release) describe(thresholds []threshold, read map[string]bool) {
	add := func(often bool, at func(int) (float64, bool), name string, pairs ...string) {
		if !read[name] {
			return
		}
		all := append([]string{labels.MetricName, name, "namespace", "counterfoil"}, pairs...)
		r.series = append(r.series, seriesRef{labels: labels.FromStrings(all...), often: often, at: at})
	}
	always := func(value float64) func(int) (float64, bool) {
		return func(int) (float64, bool) { return value, true }
	}
	exporter := func(often bool, name string, at func(int) (float64, bool), pairs ...string) {
		pairs = append([]string{"installation", r.ID, "pod", "exporter-" + r.ID}, pairs...)
		add(often, func(second int) (float64, bool) {
			value, there := at(second)
			return value, there && (r.ExporterGoneAt == 0 || second < r.ExporterGoneAt)
		}, name, pairs...)
	}
	pod := func(name string, at func(int) (float64, bool), pairs ...string) {
		pairs = append([]string{"pod", "pod-" + r.ID, "rollouts_pod_template_hash", r.canary.hash}, pairs...)
		add(true, func(second int) (float64, bool) {
			value, there := at(second)
			return value, there && (r.PodsUnseenAt == 0 || second < r.PodsUnseenAt)
		}, name, pairs...)
	}

	for _, one := range thresholds {
		add(false, always(one.value), one.name, "installation", r.ID)
	}
	exporter(false, "counterfoil_exporter_info", always(1), "version", "1")
	exporter(false, "counterfoil_rollout_version", always(1), "rollout", "billing", "role", "canary", "published_hash", r.canary.hash)
	exporter(false, "counterfoil_hot_versions_measured", always(1))
	exporter(false, "application_restart_total", func(int) (float64, bool) { return float64(r.restarts), true }, "published_hash", r.canary.hash)

	// What a failed collection had last lives as long as CF_MAX_AGE_SECONDS says.
	const maxAgeSeconds = 120
	measured := func(second int) bool {
		return r.HotCheckFailsAt == 0 || second < r.HotCheckFailsAt+maxAgeSeconds
	}
	exporter(true, "counterfoil_collection_timestamp_seconds", func(second int) (float64, bool) {
		if r.HotCheckFailsAt > 0 && second >= r.HotCheckFailsAt {
			second = r.HotCheckFailsAt
		}
		return float64(startSecond+second) - 7, true
	}, "collection", "hot_check")
	exporter(true, "counterfoil_collection_success", func(second int) (float64, bool) {
		if r.HotCheckFailsAt > 0 && second >= r.HotCheckFailsAt {
			return 0, true
		}
		return 1, true
	}, "collection", "hot_check")
	for _, name := range []string{"counterfoil_hot_events", "counterfoil_hot_lost_events"} {
		exporter(true, name, func(second int) (float64, bool) { return 0, measured(second) }, "published_hash", "unknown")
	}
	exporter(true, "counterfoil_hot_facts", func(second int) (float64, bool) { return 0, measured(second) }, "check", "session-billing", "published_hash", "unknown")
	var found counts
	// The first of these looks, and the others say what it has found: they are written in this order.
	hot := func(name string, value func() int, pairs ...string) {
		exporter(true, name, func(second int) (float64, bool) { return float64(value()), measured(second) },
			append(pairs, "published_hash", r.canary.hash)...)
	}
	hot("counterfoil_hot_events", func() int { found = r.hot(); return found.events })
	hot("counterfoil_hot_lost_events", func() int { return found.lost })
	hot("counterfoil_hot_facts", func() int { return found.facts }, "check", "session-billing")
	hot("counterfoil_hot_discrepancies", func() int { return found.missing }, "check", "session-billing", "kind", "missing")
	hot("counterfoil_hot_discrepancies", func() int { return found.wrong }, "check", "session-billing", "kind", r.Kind)

	// The canary's own pods. What is lost is lost silently: no listener says that it has failed.
	pod("counterfoil_service_info", always(1), "service_version", "1")
	count := func(share float64) func(int) (float64, bool) {
		return func(int) (float64, bool) { return float64(int(float64(r.processed) * share)), true }
	}
	pod("counterfoil_listener_runs_total", count(1), "event_type", "e", "listener", "l", "outcome", "succeeded")
	pod("event_publish_error_total", count(0), "event_type", "e")
	pod("counterfoil_listener_runs_total", count(slowShare), "event_type", "e", "listener", "l", "outcome", "failed")
	pod("event_duration_seconds_bucket", count(0.96), "event_type", "e", "le", "0.1")
	pod("event_duration_seconds_bucket", count(0.995), "event_type", "e", "le", "0.5")
	pod("event_duration_seconds_bucket", count(1), "event_type", "e", "le", "+Inf")
	pod("event_duration_seconds_count", count(1), "event_type", "e")
}
