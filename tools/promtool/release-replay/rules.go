package main

import (
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
)

// neededRules reads rules as Prometheus does, and keeps those that a query of the analysis reads, or a rule that it reads:
// all others give no answer by which a release is judged. The texts of alerts are left out: each firing alert would ask for
// a dozen queries at each evaluation, and nobody reads them here.
type neededRules struct {
	rules.FileLoader
	names map[string]bool
}

func (l neededRules) Load(file string, ignoreUnknown bool) (*rulefmt.RuleGroups, []error) {
	groups, errs := l.FileLoader.Load(file, ignoreUnknown)
	if errs != nil {
		return nil, errs
	}
	kept := groups.Groups[:0]
	for _, group := range groups.Groups {
		var needed []rulefmt.Rule
		for _, rule := range group.Rules {
			if l.names[rule.Record] || l.names[alertName(rule.Alert)] {
				rule.Annotations = nil
				needed = append(needed, rule)
			}
		}
		if len(needed) > 0 {
			group.Rules = needed
			kept = append(kept, group)
		}
	}
	groups.Groups = kept
	return groups, nil
}

// whatIsRead gives the names of recorded series and alerts by which these queries are answered, in the rules of these files.
func whatIsRead(files []string, queries []string) (map[string]bool, error) {
	reads := map[string][]string{}
	for _, file := range files {
		groups, errs := rules.FileLoader{}.Load(file, false)
		if errs != nil {
			return nil, fmt.Errorf("%s: %w", file, errs[0])
		}
		for _, group := range groups.Groups {
			if group.Interval != 0 && time.Duration(group.Interval) != slotSeconds*time.Second {
				return nil, fmt.Errorf("%s: group %s has another interval than %d s", file, group.Name, slotSeconds)
			}
			for _, rule := range group.Rules {
				name := rule.Record
				if rule.Alert != "" {
					name = alertName(rule.Alert)
				}
				reads[name] = append(reads[name], rule.Expr)
			}
		}
	}
	found := map[string]bool{}
	for len(queries) > 0 {
		names, err := selected(queries[0])
		if err != nil {
			return nil, err
		}
		queries = queries[1:]
		for _, name := range names {
			if !found[name] {
				found[name] = true
				queries = append(queries, reads[name]...)
			}
		}
	}
	return found, nil
}

func alertName(alert string) string {
	if alert == "" {
		return ""
	}
	return "ALERTS " + alert
}

// selected gives the series that a query reads.
func selected(query string) ([]string, error) {
	expr, err := parser.ParseExpr(query)
	if err != nil {
		return nil, err
	}
	var names []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, is := node.(*parser.VectorSelector)
		if !is {
			return nil
		}
		name, alert := "", ""
		for _, matcher := range selector.LabelMatchers {
			if matcher.Type != labels.MatchEqual {
				continue
			}
			switch matcher.Name {
			case labels.MetricName:
				name = matcher.Value
			case labels.AlertName:
				alert = matcher.Value
			}
		}
		if name == "ALERTS" {
			name = alertName(alert)
		}
		names = append(names, name)
		return nil
	})
	return names, nil
}
