package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/v1alpha1"
	"github.com/argoproj/argo-rollouts/pkg/apis/rollouts/validation"
	analysisutil "github.com/argoproj/argo-rollouts/utils/analysis"
	ingressutil "github.com/argoproj/argo-rollouts/utils/ingress"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

type validateRequest struct {
	// Rollouts and what they name; objects of other kinds are left alone.
	Objects []json.RawMessage `json:"objects"`
}

type validateAnswer struct {
	Problems []string `json:"problems"`
}

// given holds the objects that the controller would find in the cluster.
type given struct {
	rollouts        []*v1alpha1.Rollout
	templates       map[string]*v1alpha1.AnalysisTemplate
	services        map[string]*corev1.Service
	ingresses       map[string]*ingressutil.Ingress
	virtualServices map[string]unstructured.Unstructured
}

// validate says why the controller would not take the objects: as InvalidSpec, or as an analysis that ends at once.
func validate(request validateRequest) (validateAnswer, error) {
	found := given{
		templates:       map[string]*v1alpha1.AnalysisTemplate{},
		services:        map[string]*corev1.Service{},
		ingresses:       map[string]*ingressutil.Ingress{},
		virtualServices: map[string]unstructured.Unstructured{},
	}
	problems := []string{}
	for _, object := range request.Objects {
		if problem := found.add(object); problem != "" {
			problems = append(problems, problem)
		}
	}
	for _, template := range found.templates {
		problems = append(problems, templateProblems(template)...)
	}
	for _, rollout := range found.rollouts {
		for _, problem := range found.rolloutProblems(rollout) {
			problems = append(problems, fmt.Sprintf("Rollout %s: %s", rollout.Name, problem))
		}
	}
	return validateAnswer{Problems: problems}, nil
}

func (g *given) add(object []byte) string {
	var head unstructured.Unstructured
	if err := head.UnmarshalJSON(object); err != nil {
		return err.Error()
	}
	name := head.GetName()
	failed := error(nil)
	switch kind := head.GroupVersionKind().GroupKind().String(); kind {
	case "Rollout.argoproj.io":
		rollout := &v1alpha1.Rollout{}
		failed = strictly(object, rollout)
		g.rollouts = append(g.rollouts, rollout)
	case "AnalysisTemplate.argoproj.io":
		template := &v1alpha1.AnalysisTemplate{}
		failed = strictly(object, template)
		g.templates[name] = template
	case "Service":
		service := &corev1.Service{}
		failed = strictly(object, service)
		g.services[name] = service
	case "Ingress.networking.k8s.io":
		ingress := &networkingv1.Ingress{}
		failed = strictly(object, ingress)
		g.ingresses[name] = ingressutil.NewIngress(ingress)
	case "VirtualService.networking.istio.io":
		g.virtualServices[name] = head
	}
	if failed != nil {
		return fmt.Sprintf("%s %s: %v", head.GetKind(), name, failed)
	}
	return ""
}

// A field that the API does not know is dropped by the API server without a word.
func strictly(object []byte, target any) error {
	return yaml.UnmarshalStrict(object, target, yaml.DisallowUnknownFields)
}

func templateProblems(template *v1alpha1.AnalysisTemplate) []string {
	values := map[string]string{}
	for _, arg := range template.Spec.Args {
		values[arg.Name] = "0"
		if arg.Value != nil {
			values[arg.Name] = *arg.Value
		}
	}
	resolved := []v1alpha1.Metric{}
	problems := []string{}
	for _, asked := range template.Spec.Metrics {
		metric, err := analysisutil.ResolveMetricArgs(asked, arguments(values))
		if err != nil {
			problems = append(problems, fmt.Sprintf("AnalysisTemplate %s: %s: %v", template.Name, asked.Name, err))
			continue
		}
		resolved = append(resolved, *metric)
	}
	if err := analysisutil.ValidateMetrics(resolved); err != nil {
		problems = append(problems, fmt.Sprintf("AnalysisTemplate %s: %v", template.Name, err))
	}
	return problems
}

func (g *given) rolloutProblems(rollout *v1alpha1.Rollout) []string {
	problems := texts(validation.ValidateRollout(rollout))
	canary := rollout.Spec.Strategy.Canary
	if canary == nil {
		return problems
	}
	references := validation.ReferencedResources{}
	missing := func(kind, name string) {
		problems = append(problems, fmt.Sprintf("names %s %s, which is not there", kind, name))
	}
	for name, kind := range map[string]validation.ServiceType{
		canary.StableService: validation.StableService,
		canary.CanaryService: validation.CanaryService,
	} {
		if name == "" {
			continue
		}
		if service, there := g.services[name]; there {
			references.ServiceWithType = append(references.ServiceWithType,
				validation.ServiceWithType{Service: service, Type: kind})
		} else {
			missing("Service", name)
		}
	}
	for _, name := range ingressesOf(canary.TrafficRouting) {
		if ingress, there := g.ingresses[name]; there {
			references.Ingresses = append(references.Ingresses, *ingress)
		} else {
			missing("Ingress", name)
		}
	}
	for _, name := range virtualServicesOf(canary.TrafficRouting) {
		if virtualService, there := g.virtualServices[name]; there {
			references.VirtualServices = append(references.VirtualServices, virtualService)
		} else {
			missing("VirtualService", name)
		}
	}
	add := func(kind validation.AnalysisTemplateType, step int, asked v1alpha1.RolloutAnalysis) {
		with := validation.AnalysisTemplatesWithType{TemplateType: kind, CanaryStepIndex: step, Args: asked.Args}
		for _, reference := range asked.Templates {
			template, there := g.templates[reference.TemplateName]
			if !there {
				missing("AnalysisTemplate", reference.TemplateName)
				continue
			}
			// The validation writes placeholders into what it is given.
			with.AnalysisTemplates = append(with.AnalysisTemplates, template.DeepCopy())
		}
		references.AnalysisTemplatesWithType = append(references.AnalysisTemplatesWithType, with)
	}
	for i, step := range canary.Steps {
		if step.Analysis != nil {
			add(validation.InlineAnalysis, i, *step.Analysis)
		}
	}
	if canary.Analysis != nil {
		add(validation.BackgroundAnalysis, 0, canary.Analysis.RolloutAnalysis)
	}
	return append(problems, texts(validation.ValidateRolloutReferencedResources(rollout, references))...)
}

func ingressesOf(routing *v1alpha1.RolloutTrafficRouting) []string {
	names := []string{}
	if routing != nil && routing.Nginx != nil {
		names = append(append(names, routing.Nginx.StableIngress), routing.Nginx.StableIngresses...)
	}
	if routing != nil && routing.ALB != nil {
		names = append(append(names, routing.ALB.Ingress), routing.ALB.Ingresses...)
	}
	return notEmpty(names)
}

func virtualServicesOf(routing *v1alpha1.RolloutTrafficRouting) []string {
	names := []string{}
	if routing != nil && routing.Istio != nil {
		if routing.Istio.VirtualService != nil {
			names = append(names, routing.Istio.VirtualService.Name)
		}
		for _, one := range routing.Istio.VirtualServices {
			names = append(names, one.Name)
		}
	}
	return notEmpty(names)
}

func notEmpty(names []string) []string {
	found := []string{}
	for _, name := range names {
		if strings.TrimSpace(name) != "" {
			found = append(found, name)
		}
	}
	return found
}

func texts(problems field.ErrorList) []string {
	found := []string{}
	for _, problem := range problems {
		found = append(found, problem.Error())
	}
	return found
}
